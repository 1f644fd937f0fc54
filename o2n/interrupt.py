"""Ctrl-C and SIGTERM for commands that run until they are stopped."""

import signal
from types import FrameType

# Both by name: a shell's background processes are born with the first one ignored.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def until_interrupted() -> None:
    """From now on either signal raises KeyboardInterrupt in the main thread, once: a second one must not cut short what
    the first has begun."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    for number in SIGNALS:
        signal.signal(number, _ignore)
    raise KeyboardInterrupt


def _ignore(signal_number: int, frame: FrameType | None) -> None:
    """In the place of SIG_IGN, of which Python complains where a signal had come already."""
