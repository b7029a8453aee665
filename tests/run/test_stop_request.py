"""Who asks to stop, and what all ranks make of it."""

import os
import signal
from types import SimpleNamespace

import pytest

from kit.run.stop import EXIT_REQUEUE, EXIT_STOPPED, StopRequest


def agree(*requests: StopRequest) -> list[bool]:
    """What the ranks say of which each has one of the requests."""
    given = []
    alone = SimpleNamespace(device="cpu", reduce=lambda own, reduction: given.append(own) or own)
    for request in requests:
        request.agreed(alone)
        request.exit_code = 0
    together = SimpleNamespace(device="cpu", reduce=lambda own, reduction: sum(given))
    return [request.agreed(together) for request in requests]


def heard(request: StopRequest, *signals: signal.Signals) -> StopRequest:
    with request:
        for number in signals:
            os.kill(os.getpid(), number)
    return request


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ((), (), 0),
        ((signal.SIGTERM,), (), EXIT_STOPPED),
        ((), (signal.SIGINT,), EXIT_STOPPED),
        ((signal.SIGUSR2,), (), EXIT_REQUEUE),
        ((), (signal.SIGUSR2,), EXIT_REQUEUE),
        ((signal.SIGTERM,), (signal.SIGUSR2,), EXIT_REQUEUE),
    ],
)
def test_ranks_that_heard_different_things_say_the_same(first, second, code, tmp_path):
    one, other = heard(StopRequest(tmp_path), *first), heard(StopRequest(tmp_path), *second)
    assert agree(one, other) == [code > 0] * 2
    assert one.exit_code == other.exit_code == code


def test_a_file_outweighs_the_signal_of_another_rank(tmp_path):
    seeing = StopRequest(tmp_path)
    late = heard(StopRequest(tmp_path / "does not see it yet"), signal.SIGUSR2)
    (tmp_path / "stop").touch()
    assert agree(seeing, late) == [True, True]
    assert seeing.exit_code == late.exit_code == EXIT_STOPPED


def test_the_main_process_takes_the_file_away(tmp_path):
    request = StopRequest(tmp_path)
    (tmp_path / "stop").touch()
    request.answered(SimpleNamespace(is_main_process=False))
    assert request.asked
    request.answered(SimpleNamespace(is_main_process=True))
    assert not request.asked
