"""Which version serves now, remembered for a moment, so that a burst of requests reads the pointer once."""

import asyncio

from cachetools import LRUCache, TTLCache

from o2n.calibration import Calibration
from o2n.category import Manifest, VersionRef
from o2n.store import CategoryStore

# A published version takes over within this many seconds on every replica.
FRESH_SECONDS = 1.0


class Catalog:
    """The gateway's view of the store. Pointers are kept for a second."""

    def __init__(self, store: CategoryStore) -> None:
        self.store = store
        self._current: TTLCache[str, VersionRef] = TTLCache(maxsize=4096, ttl=FRESH_SECONDS)
        self._calibrations: LRUCache[VersionRef, Calibration] = LRUCache(maxsize=4096)

    async def current(self, name: str) -> VersionRef:
        """The version that a request arriving now is pinned to.

        Raises:
            CategoryError, NotFoundError, StoreError: see `CategoryStore.current`.
        """
        ref = self._current.get(name)
        if ref is None:
            ref = self._current[name] = await asyncio.to_thread(self.store.current, name)
        return ref

    async def manifest(self, name: str) -> Manifest:
        """The manifest of the version that serves now."""
        ref = await self.current(name)
        return await asyncio.to_thread(self.store.manifest, ref)

    async def calibration(self, ref: VersionRef) -> Calibration:
        """What a version's decisions are made by; it never changes."""
        calibration = self._calibrations.get(ref)
        if calibration is None:
            calibration = self._calibrations[ref] = await asyncio.to_thread(self.store.calibration, ref)
        return calibration

    def forget(self, name: str) -> None:
        """Look anew which version serves: it was just changed through this very gateway."""
        self._current.pop(name, None)
