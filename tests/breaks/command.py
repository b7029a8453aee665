"""Breaks of the command medvqa and of what a wheel holds."""

from breaks.kind import Break

MISTAKES = "tests/test_cli.py::test_a_mistake_is_told_without_torch"

BREAKS = (
    Break(
        "an adapter is not looked at before torch is loaded",
        "kit/run/inputs.py",
        'for key in ("sft_ckpt", "adapter"):',
        'for key in ("sft_ckpt",):',
        (MISTAKES,),
    ),
    Break(
        "broken lines of small data are not looked at before torch is loaded",
        "kit/run/inputs.py",
        "path.stat().st_size <= SMALL",
        "path.stat().st_size > SMALL",
        (MISTAKES,),
    ),
    Break(
        "the number of processes that was asked for is left out of a launch",
        "kit/cli.py",
        'f"--config_file={file.path}", *count]',
        'f"--config_file={file.path}"]',
        ("tests/test_cli.py::test_a_command_becomes_accelerate_launch",),
    ),
    Break(
        "a wheel lacks the DeepSpeed files",
        "setup.py",
        '"accelerate_configs", "ds_configs", "slurm")',
        '"accelerate_configs", "slurm")',
        ("tests/test_cli.py::test_a_wheel_holds_what_a_checkout_has",),
    ),
)
