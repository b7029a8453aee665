"""What tests of whole runs share: start them, read what they leave, compare it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load_file

from kit.files import iter_json_lines

ROOT = Path(__file__).resolve().parent.parent
HANGS_AFTER = 240.0  # seconds; none takes half of that
CLOCKS = ("time/", "tokens_per_second")


@st.composite
def pixel_boxes(draw, size: tuple[int, int], smallest: int = 1, largest: int = 16):
    """One to four different boxes in whole pixels of an image of this width and height."""
    result = []
    for _ in range(draw(st.integers(1, 4))):
        width, height = (draw(st.integers(smallest, largest)) for _ in range(2))
        x, y = draw(st.integers(0, size[0] - width)), draw(st.integers(0, size[1] - height))
        result.append((x, y, x + width, y + height))
    return tuple(dict.fromkeys(result))


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    found = [row for _, row in iter_json_lines(folder / name)]
    assert all(isinstance(row, dict) for row in found), found
    return found


def wait_for_rows(number: int, folder: Path, process) -> int:
    """Until a run that goes on has logged so many; how many it has."""
    file = folder / "metrics.jsonl"
    while not (file.exists() and (logged := file.read_text().count("\n")) >= number):
        assert process.poll() is None
        time.sleep(0.02)
    return logged


def metrics_of(evaluation: Path) -> dict[str, float]:
    return json.loads((evaluation / "metrics.json").read_text())


def lasting(folder: Path) -> list[dict]:
    """Logged rows without what a clock says."""
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS)} for row in rows(folder)]


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def most_apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """How far apart weights are, as a part of their length: Adam makes of a gradient that is
    rounding alone a step as large as any, so single numbers tell little."""
    assert a.keys() == b.keys()
    first, second = (torch.cat([w[k].flatten().double() for k in a]) for w in (a, b))
    return float((first - second).norm() / first.norm())


def launcher(accelerate_config: str | Path | None) -> list[str]:
    """The beginning of a command that really starts a script, with a config of accelerate_configs/
    or another file and a free port; plain Python without one. ``ranks.launcher`` is cheaper."""
    if accelerate_config is None:
        return [sys.executable]
    file = accelerate_config
    if isinstance(file, str):
        file = f"accelerate_configs/{file}.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    return [*launch, "--main_process_port", "0"]


def run(
    command: list[str], timeout: float | None = HANGS_AFTER, **environment: str
) -> subprocess.CompletedProcess:
    """Run a command from the repository's root, one thread a process, and keep what it says. One
    that hangs is ended, and says where."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"} | environment,
    )  # fmt: skip
    try:
        said, complained = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for one in reversed([process, *psutil.Process(process.pid).children(recursive=True)]):
            one.send_signal(signal.SIGABRT)
        said, complained = process.communicate()
        complained = f"hung: {' '.join(command)}\n{complained}"
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


def python_path() -> str:
    """For processes that find the reward functions of tests/, as tests themselves do."""
    return os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])


def flags_of(settings: dict[str, object]) -> list[str]:
    return [
        f"--{name}={value[0] if isinstance(value, list) else value}"
        for name, value in settings.items()
        if value is not None
    ]


RUN = {
    "max_steps": 4, "save_steps": 1, "save_total_limit": 3, "per_device_train_batch_size": 2,
    "learning_rate": 1e-3, "logging_steps": 1, "report_to": ["none"],
}  # fmt: skip
OF_STAGE = {
    "sft": {"base_model": "tiny", "lora_r": 4},
    "grpo": {
        "num_generations": 2, "max_completion_length": 16, "counterfactual": "off",
        "log_completions": False, "reward_funcs": ["text_reward:by_letters"],
    },
}  # fmt: skip


def settings_of(stage, prepared, trained, folder, **changes) -> dict:
    """A short run of a stage that saves after each step."""
    data = {"data": str(prepared["train"])}
    if stage == "grpo":
        data = {"data": str(trained["data"]), "sft_ckpt": str(trained["sft"])}
    return RUN | OF_STAGE[stage] | data | {"output_dir": str(folder)} | changes


def on_cpu(folder: Path, name: str, **changes) -> Path:
    """A launch of two processes on a CPU with a file of ds_configs/, changed."""
    settings = json.loads((ROOT / f"ds_configs/{name}.json").read_text())
    settings["zero_optimization"] |= changes
    (folder / "deepspeed.json").write_text(json.dumps(settings))
    launch = yaml.safe_load((ROOT / "accelerate_configs/cpu_zero3.yaml").read_text())
    launch["deepspeed_config"]["deepspeed_config_file"] = str(folder / "deepspeed.json")
    (folder / "launch.yaml").write_text(yaml.safe_dump(launch))
    return folder / "launch.yaml"
