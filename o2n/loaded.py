"""What versions need, loaded on demand and kept within a budget in bytes. Knows nothing of what it keeps."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from cachetools import LRUCache

from o2n.category import VersionRef

V = TypeVar("V")


class Loaded(Generic[V]):
    """Values by version; what was used least recently goes first. For several threads.

    loads, hits, evictions: how often each has happened. nbytes: the size of what is kept now, never over `budget`.
    """

    def __init__(self, load: Callable[[VersionRef], V], size: Callable[[V], int], budget: int) -> None:
        """Args: size: of a value, in bytes; a value over the whole budget is loaded for every use of it."""
        self.budget = budget
        self.loads = self.hits = self.evictions = 0
        self._load, self._size = load, size
        self._lock = threading.Lock()
        self._kept: LRUCache[VersionRef, V] = LRUCache(budget, getsizeof=size)

    def get(self, ref: VersionRef) -> V:
        """The value of `ref`; raises what loading it raises."""
        with self._lock:
            value = self._kept.get(ref)
            if value is not None:
                self.hits += 1
                return value
        # Without the lock: while one version is read from the store, the others are there for everybody.
        value = self._load(ref)
        with self._lock:
            self.loads += 1
            if ref not in self._kept and self._size(value) <= self.budget:
                before = len(self._kept)
                self._kept[ref] = value
                self.evictions += before + 1 - len(self._kept)
        return value

    def __contains__(self, ref: VersionRef) -> bool:
        with self._lock:
            return ref in self._kept

    @property
    def nbytes(self) -> int:
        return int(self._kept.currsize)
