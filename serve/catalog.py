"""Which version serves now, remembered for a moment, so that a burst of requests reads the pointer once."""

import asyncio

from cachetools import TTLCache

from o2n.category import Manifest, VersionRef
from o2n.store import CategoryStore

# A published version takes over within this many seconds on every replica.
FRESH_SECONDS = 1.0


class Catalog:
    """The gateway's view of the store. Pointers are kept for a second."""

    def __init__(self, store: CategoryStore) -> None:
        self.store = store
        self._current: TTLCache[str, VersionRef] = TTLCache(maxsize=4096, ttl=FRESH_SECONDS)

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
