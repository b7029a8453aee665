"""What ``accelerate launch`` would tell the processes that it starts, computed by accelerate's own
functions, which it does not promise to keep. Read in accelerate 1.12 to 1.15.
"""

from __future__ import annotations

from pathlib import Path

from accelerate.commands.config import config_args
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from kit.errors import ConfigError
from kit.run.launch_files import read_launch_file

# module, the names that it must have, what they are for
LEANS_ON = (
    (
        "accelerate.commands.config.config_args",
        ("default_config_file",),
        "naming the file that accelerate launch takes by itself",
    ),
    (
        "accelerate.commands.launch",
        ("_validate_launch_command", "launch_command_parser"),
        "reading accelerate_configs/ on SLURM as accelerate launch does",
    ),
    (
        "accelerate.utils.launch",
        (
            "prepare_deepspeed_cmd_env", "prepare_multi_gpu_env",
            "prepare_simple_launcher_cmd_env",
        ),
        "the environment of a rank on SLURM",
    ),
)  # fmt: skip


def default_file() -> Path | None:
    """The file that ``accelerate launch`` takes without ``--config_file``, if there is one."""
    path = Path(config_args.default_config_file)
    return path if path.is_file() else None


def environment_of(path: str | None, *, processes: int) -> dict[str, str]:
    """The environment variables by which ``accelerate launch --config_file`` tells a process how
    it was launched, computed by accelerate itself; ranks and addresses are left out.

    Raises:
        ConfigError: accelerate or the kit refuses the configuration.
    """
    if path is None:
        return {}
    file = read_launch_file(path)
    command = ["--config_file", str(file.path), "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--main_process_port", "0", "unnamed"]
    try:
        options, defaults, has_precision = _validate_launch_command(
            launch_command_parser().parse_args(command)
        )
        if options.use_deepspeed:
            fields = [*defaults.deepspeed_config, *(["mixed_precision"] if has_precision else [])]
            options.deepspeed_fields_from_accelerate_config = ",".join(fields)
            _, environment = prepare_deepspeed_cmd_env(options)
        elif options.multi_gpu:
            environment = prepare_multi_gpu_env(options)
        else:
            _, environment = prepare_simple_launcher_cmd_env(options)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(str(error), where=path, fix="fix it") from error
    return {k: v for k, v in environment.items() if k.startswith("ACCELERATE_")}
