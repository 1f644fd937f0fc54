"""Which version of a category serves in this gateway: the pointer's, once it is loaded where it is needed.

Only a category that is asked for is looked up, and at most once a second. A version that cannot be loaded is refused:
the one before goes on serving.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cachetools import LRUCache

from o2n.calibration import Calibration
from o2n.category import Manifest, Pointer, VersionRef
from o2n.errors import DeadlineError, FoundationError, IntegrityError, NotFoundError, O2NError
from o2n.store import CategoryStore
from serve import metrics
from serve.store_calls import store_call

# A pointer is read again after this many seconds, if anybody asks.
FRESH_SECONDS = 1.0
# A request that finds a new version waits this long for it to load, so that it reaches even a category that is seldom
# asked for; all others, and this one after it, go on with the old one.
PATIENCE_SECONDS = 5.0
# One for a category that serves no version yet waits this long; its look-up goes on, for those who ask again.
FIRST_SECONDS = 20.0
# A version that was refused is tried again after this many seconds; a pointer that moves on is followed at once.
RETRY_SECONDS = 10.0
MANIFESTS = 4096

# What is wrong with the version itself, not with the moment.
REFUSED = (NotFoundError, IntegrityError, FoundationError)

logger = logging.getLogger("ray.serve")

Warm = Callable[[VersionRef], Awaitable[None]]


@dataclass
class _Entry:
    """One category: what serves, when the pointer was read, and what became of its version if that was refused."""

    serving: VersionRef | None = None
    read: float = float("-inf")
    refused: VersionRef | None = None
    why: O2NError | None = None
    retry: float = float("-inf")
    refreshing: "asyncio.Task[None] | None" = field(default=None, repr=False)


class Catalog:
    """The gateway's view of the store."""

    def __init__(self, store: CategoryStore, check_loads: Warm, warm: Warm) -> None:
        """Args:
        check_loads: loads a version in some replica, or raises what is wrong with it.
        warm: loads it in all.
        """
        self.store = store
        self._check_loads, self._warm = check_loads, warm
        self._entries: LRUCache[str, _Entry] = LRUCache(MANIFESTS)
        self._manifests: LRUCache[VersionRef, Manifest] = LRUCache(MANIFESTS)
        self._calibrations: LRUCache[VersionRef, Calibration] = LRUCache(MANIFESTS)

    async def current(self, name: str) -> VersionRef:
        """The version that a request arriving now is pinned to.

        Raises:
            CategoryError, NotFoundError, StoreError: see `CategoryStore.current`.
            NotFoundError, IntegrityError, FoundationError: the version cannot be loaded, nor any before it.
            DeadlineError: there is no telling yet.
        """
        entry = self._entries.get(name)
        if entry is None:
            entry = _Entry()
        if entry.refreshing is None and time.monotonic() - entry.read >= FRESH_SECONDS:
            entry.refreshing = asyncio.create_task(self._refresh(name, entry))
            entry.refreshing.add_done_callback(lambda task: self._refreshed(name, entry, task))
            self._entries[name] = entry
            if entry.serving is not None:
                await asyncio.wait([entry.refreshing], timeout=PATIENCE_SECONDS)
        if entry.serving is None and (look_up := entry.refreshing) is not None:
            # Not awaited itself: a client that goes away does not take the others' look-up with it.
            done, _ = await asyncio.wait([look_up], timeout=FIRST_SECONDS)
            if not done:
                raise DeadlineError(f"category {name} did not load in time from store {self.store.url}: send it again")
            look_up.result()
        if entry.serving is None:
            raise entry.why or NotFoundError(f"category {name} is not in store {self.store.url}")
        return entry.serving

    def instead_of(self, published: VersionRef) -> VersionRef:
        """What serves here while the pointer names `published`: as far as is known by now, without loading anything."""
        entry = self._entries.get(published.category)
        return entry.serving if entry and entry.serving and entry.refused == published else published

    def refused(self, name: str) -> str | None:
        """Why the version that the pointer names does not serve here, if it does not."""
        entry = self._entries.get(name)
        return str(entry.why) if entry is not None and entry.why is not None else None

    async def manifest(self, name: str) -> Manifest:
        """The manifest of the version that serves now; raises as `current`."""
        return await self.manifest_of(await self.current(name))

    async def manifest_of(self, ref: VersionRef) -> Manifest:
        """A version's manifest, kept once it was read; raises as `CategoryStore.manifest`."""
        manifest = self._manifests.get(ref)
        if manifest is None:
            manifest = self._manifests[ref] = await store_call(self.store.manifest, ref)
        return manifest

    async def calibration(self, ref: VersionRef) -> Calibration:
        """What a version's decisions are made by; it never changes."""
        calibration = self._calibrations.get(ref)
        if calibration is None:
            calibration = self._calibrations[ref] = await store_call(self.store.calibration, ref)
        return calibration

    def forget(self, name: str) -> None:
        """Look anew which version serves: it was just changed through this very gateway."""
        if entry := self._entries.get(name):
            entry.read = float("-inf")

    def _refreshed(self, name: str, entry: _Entry, task: "asyncio.Task[None]") -> None:
        entry.refreshing = None
        if not task.cancelled() and task.exception() is not None and entry.serving is None:
            self._entries.pop(name, None)  # a name that is none is not remembered

    async def _refresh(self, name: str, entry: _Entry) -> None:
        """Follow the pointer, as far as it leads to a version that loads."""
        try:
            pointer = await store_call(self.store.pointer, name)
        except NotFoundError:
            entry.serving = None
            raise
        except O2NError as error:
            if entry.serving is None:
                raise
            logger.warning("category %s goes on with version %s: %s", name, entry.serving.version, error)
            entry.read = time.monotonic()
            return
        await self._follow(VersionRef(name, pointer.version), pointer, entry)
        entry.read = time.monotonic()

    async def _follow(self, wanted: VersionRef, pointer: Pointer, entry: _Entry) -> None:
        if entry.serving == wanted:
            entry.refused = entry.why = None
            return
        if entry.refused == wanted and time.monotonic() < entry.retry:
            return
        try:
            await self.calibration(wanted)
            await (self._check_loads if entry.serving is None else self._warm)(wanted)
        except REFUSED as error:
            if entry.refused != wanted:
                logger.warning("%s version %s is refused: %s", wanted.category, wanted.version, error)
                metrics.REFUSED_VERSIONS.inc()
            entry.refused, entry.why, entry.retry = wanted, error, time.monotonic() + RETRY_SECONDS
            if entry.serving is None:
                entry.serving = await self._newest_that_loads(pointer, wanted.category)
        except O2NError as error:
            # Not the version's fault: it will show when it is used, or be tried again in a second.
            logger.warning("%s version %s could not be warmed: %s", wanted.category, wanted.version, error)
            if entry.serving is None:
                entry.serving = wanted
        else:
            entry.serving, entry.refused, entry.why = wanted, None, None

    async def _newest_that_loads(self, pointer: Pointer, name: str) -> VersionRef | None:
        for version in reversed(pointer.history):
            ref = VersionRef(name, version)
            try:
                await self.calibration(ref)
                await self._check_loads(ref)
            except REFUSED:
                continue
            logger.warning("category %s goes back to version %s", name, version)
            return ref
        return None
