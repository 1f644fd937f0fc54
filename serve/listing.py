"""What a store has, as answers: its categories, their versions, the verdicts given on them. Knows no deadline."""

import asyncio
import logging
import time
from typing import Any

from o2n.category import Manifest, Pointer, VersionRef
from o2n.errors import O2NError
from o2n.fusion import fuse_with
from o2n.store import CategoryStore
from serve.catalog import FRESH_SECONDS, Catalog
from serve.protocol import CategoryAnswer, CategoryDetails, FeedbackEntry, ListedFeedback, VersionEntry
from serve.store_calls import store_call

# Categories looked up at once for a list of them: it is waiting for the store, ten times as long as computing. Not by
# all of the store's threads, nor by so many that they compute without a pause: others are scored meanwhile.
READERS = 6
# Each is a small file to read, and who goes back further knows the version by name.
SHOWN_VERSIONS = 20

logger = logging.getLogger("ray.serve")


class Listing:
    """The lists of one gateway; all that it keeps is the last one of all categories."""

    def __init__(self, store: CategoryStore, catalog: Catalog) -> None:
        self._store, self._catalog = store, catalog
        self._reading: asyncio.Task[list[CategoryAnswer]] | None = None
        self._known: dict[str, CategoryAnswer] = {}
        self._again = float("-inf")
        self._outdated = False  # what is being read

    async def categories(self) -> list[CategoryAnswer]:
        """Every category and the version that serves for it; one that is not whole is left out and logged.

        None of them is loaded for that: a version that no one has asked for yet may turn out to be one that cannot be.
        Of a store with thousands it takes minutes: all who ask wait for one list, which goes on when they give up, and
        is kept for as long as it took.

        Raises:
            StoreError: there is no reading which categories there are.
        """
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() >= self._again):
            reading = self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(reading)

    def forget(self) -> None:
        """List anew: a category was just changed."""
        self._again, self._outdated = float("-inf"), True

    async def _read(self) -> list[CategoryAnswer]:
        begun, known, readers = time.monotonic(), self._known, asyncio.Semaphore(READERS)
        self._outdated = False

        async def found(name: str) -> CategoryAnswer | None:
            async with readers:
                try:
                    pointer = await store_call(self._store.pointer, name)
                    ref = self._catalog.instead_of(VersionRef(name, pointer.version))
                    if (answer := known.get(name)) and answer.version == ref.version:
                        return answer.model_copy(update=self._pointed(ref, pointer))
                    # Not by way of the catalog: what serves is not to be driven out by what is merely listed.
                    return self._summary(await store_call(self._store.manifest, ref), pointer)
                except O2NError as error:
                    logger.warning("category %s is left out of the list: %s", name, error)
                    return None

        names = await store_call(self._store.categories)
        answers = [answer for answer in await asyncio.gather(*map(found, names)) if answer]
        self._known = {answer.category: answer for answer in answers}
        now = time.monotonic()
        self._again = now if self._outdated else now + max(FRESH_SECONDS, now - begun)
        return answers

    async def category(self, name: str) -> CategoryAnswer:
        """One category and the version that serves for it."""
        manifest = await self._catalog.manifest(name)
        return self._summary(manifest, await store_call(self._store.pointer, name))

    def _summary(self, manifest: Manifest, pointer: Pointer) -> CategoryAnswer:
        return CategoryAnswer(
            category=manifest.category,
            version=manifest.version,
            created=manifest.created.isoformat(timespec="seconds"),
            references=len(manifest.reference_digests),
            object_word=manifest.object_word,
            profile=manifest.profile.name,
            **self._pointed(manifest.ref, pointer),
        )

    def _pointed(self, ref: VersionRef, pointer: Pointer) -> dict[str, Any]:
        """What of an answer may change while its version stays."""
        history = [version for version in pointer.history if version != ref.version]
        return {"history": history, "refused": self._catalog.refused(ref.category)}

    async def details(self, name: str) -> CategoryDetails:
        """One category with its calibration and its latest versions; one that is not whole is left out and logged."""
        answer = await self.category(name)
        ref = VersionRef(name, answer.version)
        manifest = await self._catalog.manifest_of(ref)
        weights = {  # what eq. (7) makes of each branch alone
            "s_p": fuse_with(manifest.profile, 1.0, 0.0, 0.0),
            "s_n": fuse_with(manifest.profile, 0.0, 1.0, 0.0),
            "s_text": fuse_with(manifest.profile, 0.0, 0.0, 1.0),
        }
        calibration = await self._catalog.calibration(ref)
        latest = [answer.version, *reversed(answer.history)][:SHOWN_VERSIONS]
        versions = await asyncio.gather(*(store_call(self._version, VersionRef(name, one)) for one in latest))
        return CategoryDetails(
            **answer.model_dump(),
            weights=weights,
            calibration=list(calibration.scores),
            versions=[version for version in versions if version],
        )

    async def feedback(self, name: str) -> list[ListedFeedback]:
        """The verdicts given on a category, oldest first."""
        return await store_call(self._verdicts, name)

    def _verdicts(self, name: str) -> list[ListedFeedback]:
        given = self._store.feedback(name)
        in_bank = set(self._store.manifest(self._store.current(name)).fed_back)
        return [ListedFeedback(**said.model_dump(exclude={"blob"}), in_bank=said in in_bank) for said in given]

    def _version(self, ref: VersionRef) -> VersionEntry | None:
        try:
            manifest = self._store.manifest(ref)
        except O2NError as error:
            logger.warning("version %s of category %s is left out: %s", ref.version, ref.category, error)
            return None
        verdict = manifest.feedback[-1] if manifest.feedback else None
        return VersionEntry(
            version=ref.version,
            created=manifest.created,
            feedback=verdict and FeedbackEntry.model_validate(verdict, from_attributes=True),
        )
