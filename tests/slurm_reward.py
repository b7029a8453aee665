"""A user's reward function, by which a test holds a GRPO run until a signal has reached it."""

import os
import signal
import time
from pathlib import Path

from text_reward import by_letters

calls = 0


def reward(completions, **_):
    """Rewards ``by_letters``. While the file ``$HOLD``
    is there, the second step of a process lasts until any rank has heard a signal; a file
    ``held-RANK`` beside it says that a rank has come to that."""
    global calls
    calls += 1
    hold = Path(os.environ.get("HOLD", "/nowhere"))
    if calls > 1 and hold.exists():
        hold.with_name(f"held-{os.environ['RANK']}").touch()
    while calls > 1 and hold.exists():
        if signal.getsignal(signal.SIGUSR2).__self__.asked:
            hold.unlink(missing_ok=True)
        time.sleep(0.01)
    return by_letters(completions)
