"""The helper that forks the ranks of tests is a launcher: codes, words, ends and hangs."""

import os
import signal
from functools import partial

import pytest
from hooks import fall_asleep
from ranks import Ranks, launcher, run

pytestmark = pytest.mark.slow


def test_a_mistake_is_that_of_the_command_line():
    done = run([*launcher(None), "launch/train_sft.py", "--data=-", "--max_stepps=1"])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown option --max_stepps")
    assert "did you mean" in done.stderr


@pytest.mark.parametrize("config", [None, "cpu", "cpu_zero2"])
def test_ranks_know_what_they_are(config, tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import os, sys\n"
        "names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'ACCELERATE_USE_DEEPSPEED', 'MINE')\n"
        "sys.stdout.write(' '.join(os.environ.get(name, '-') for name in names) + '\\n')\n"
    )
    done = run([*launcher(config), str(script)], MINE="told")
    assert done.returncode == 0, done.stderr
    assert (
        sorted(done.stdout.splitlines())
        == {
            None: ["- - - - told"],
            "cpu": ["0 0 2 - told", "1 1 2 - told"],
            "cpu_zero2": ["0 0 2 true told", "1 1 2 true told"],
        }[config]
    )


def test_one_that_hangs_says_where(tmp_path):
    script = tmp_path / "nothing.py"
    script.write_text("")
    ranks = Ranks([*launcher("cpu"), str(script)], partial(fall_asleep, rank=1))
    done = ranks.communicate(timeout=8)
    assert done.returncode == -signal.SIGABRT
    assert done.stderr.startswith("hung: ")
    assert "in fall_asleep" in done.stderr


def test_one_that_is_killed_ends_the_others(tmp_path):
    script = tmp_path / "nothing.py"
    script.write_text("import time\ntime.sleep(1000)\n")
    ranks = Ranks([*launcher("cpu"), str(script)])
    os.kill(ranks.pids[0], signal.SIGKILL)
    assert ranks.wait(20) == -signal.SIGKILL
    assert not [pid for pid in ranks.pids if os.path.exists(f"/proc/{pid}")]
