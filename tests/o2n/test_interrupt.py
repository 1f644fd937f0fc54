"""Ctrl-C and SIGTERM."""

import subprocess
import sys

import pytest

STOPPED = """
import signal, sys
from o2n.interrupt import SIGNALS, until_interrupted
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
for name in sys.argv[1:]:
    signal.raise_signal(getattr(signal, name))
until_interrupted()
try:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    signal.pause()
except KeyboardInterrupt:
    signal.raise_signal(signal.SIGINT)  # impatience
    print("in good order")
"""


@pytest.mark.parametrize("came", [["SIGINT"], ["SIGTERM"], ["SIGINT", "SIGTERM"]], ids=" and ".join)
def test_what_came_while_it_started_stops_it_once_and_without_a_word(came: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED, *came], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("in good order\n", "", 0)
