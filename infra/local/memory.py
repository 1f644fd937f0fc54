"""What processes hold in memory, shared pages counted once."""

import threading
from contextlib import suppress

import psutil

from infra.local.cluster import Cluster


def held_bytes(process: psutil.Process) -> int:
    """Its own pages, and of those that it shares with others its part.

    Raises: psutil.Error: it is gone, or another user's.
    """
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.uss))  # Linux alone tells the part


class PeakMemory:
    """Watches what the cluster and this process hold, shared pages counted once; `gib` is the most that was seen."""

    def __init__(self, cluster: Cluster) -> None:
        self.gib = 0.0
        self._cluster = cluster
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(3):
            held = 0
            for process in [*self._cluster.processes(), psutil.Process()]:
                with suppress(psutil.Error):
                    held += held_bytes(process)
            self.gib = max(self.gib, held / 2**30)
