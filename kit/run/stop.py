"""Requests to stop: heard at any moment, agreed on by all ranks at the end of a step."""

from __future__ import annotations

import signal
from pathlib import Path

from accelerate import Accelerator

from kit.run.process import total

EXIT_STOPPED = 99
EXIT_REQUEUE = 98  # stopped too, and to be started again: there was no time or no machine left


class StopRequest:
    """SIGTERM, SIGINT or a file ``stop`` in the run folder ask to leave at the next step; so does
    SIGUSR2, which SLURM is told to send ahead of a preemption or time limit, and to be started
    again.

    A context: on leaving it the signals mean again what they meant before. A signal that was
    blocked until now is heard on entering it.

    Attributes:
        exit_code: what ``agreed`` came to: EXIT_STOPPED, or EXIT_REQUEUE if any rank got SIGUSR2
            (a file ``stop`` outweighs it), or 0.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self, folder: Path):
        self.file = folder / "stop"
        self.exit_code = 0
        self._heard: set[int] = set()

    def __enter__(self) -> StopRequest:
        self._before = {
            number: signal.signal(number, self._record_signal) for number in self.SIGNALS
        }
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record_signal(self, number, frame) -> None:
        self._heard.add(number)

    @property
    def asked(self) -> bool:
        """Whether this rank was asked."""
        return bool(self._heard) or self.file.exists()

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any rank was asked; the same answer on all ranks."""
        by_file = self.file.exists()
        again = signal.SIGUSR2 in self._heard
        asked, by_files, agains = total(accelerator, self.asked or by_file, by_file, again)
        if asked:
            self.exit_code = EXIT_REQUEUE if agains and not by_files else EXIT_STOPPED
        return asked > 0

    def answered(self, accelerator: Accelerator) -> None:
        """Take the file away, so that the run can be resumed."""
        if accelerator.is_main_process:
            self.file.unlink(missing_ok=True)
