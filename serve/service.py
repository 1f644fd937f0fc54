"""What the routes do: pictures in, decided scores out, verdicts learned. Knows no HTTP and no model."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from o2n import images
from o2n.calibration import Decision, decide
from o2n.category import Verdict, VersionRef
from o2n.errors import ConflictError, DeadlineError, O2NError
from o2n.feedback import keep_anomalous
from o2n.fusion import Score
from o2n.images import Picture
from o2n.settings import get_settings
from o2n.store import CategoryStore
from o2n.tokens import read_tokens
from serve import metrics
from serve.catalog import Catalog
from serve.listing import Listing
from serve.protocol import CategoryAnswer, CategoryDetails, ListedFeedback
from serve.scoring import READY_TIMEOUT_SECONDS, Branches
from serve.store_calls import store_call

OVERLAY_SIDE = 1024
# Pictures decoded or encoded at once by a replica: a few kilobytes can become 50 million pixels, and a request may have
# 64 such. In threads of their own, because one that has begun goes on when its request is given up.
DECODERS = 2
FEEDBACK_ATTEMPTS = 3

T = TypeVar("T")

logger = logging.getLogger("ray.serve")

_decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="pictures")


@dataclass(frozen=True)
class Upload:
    """A picture as it came: the bytes of a file, or pixels; `name` is how errors call it."""

    name: str
    data: bytes | Picture


@dataclass(frozen=True)
class Scored:
    """One picture, scored. picture: no side over `OVERLAY_SIDE`, to lay a heat map over; reference: where asked for."""

    name: str
    picture: Picture
    score: Score
    decision: Decision
    reference: Picture | None


@dataclass(frozen=True)
class Learned:
    """What became of a verdict. ref: the version that serves after it; counts_as_normal: whether the picture is among
    its normal ones."""

    ref: VersionRef
    counts_as_normal: bool


class Service:
    """One service for every category of a store."""

    def __init__(self, store: CategoryStore, branches: Branches) -> None:
        self.store = store
        self.catalog = Catalog(store, branches.check_loads, branches.warm)
        self._branches = branches
        self._keepers = asyncio.Semaphore(DECODERS)
        self._reading: asyncio.Task[bool] | None = None
        self._listing = Listing(store, self.catalog)
        self._rate = get_settings().false_positive_rate

    async def score(
        self,
        ref: VersionRef,
        uploads: Sequence[Upload],
        answer: Callable[[Scored], T],
        rate: float | None = None,
        with_reference: bool = False,
    ) -> list[T]:
        """Score and decide all pictures with one version: all of them, or none and an error.

        Args:
            answer: what is returned for a picture, made in a thread: PNGs take longer than some scores do.
            rate: the false-positive rate to decide at, in (0, 1); by default that of the settings.
            with_reference: find the nearest normal picture of each, too.

        Raises:
            PictureError, NotFoundError, IntegrityError, FoundationError, StoreError, OverloadedError, DeadlineError
        """
        deadline = self._deadline()
        calibration = await self._by(deadline, self.catalog.calibration(ref))
        side = (await self._by(deadline, self.catalog.manifest_of(ref))).resolution
        with self._branches.admitted(len(uploads)):
            pictures = await _all(self._prepare(upload, side, deadline) for upload in uploads)

            async def reference_of(query: Picture) -> Picture | None:
                return await self._branches.reference(query, ref, deadline) if with_reference else None

            async def both(query: Picture) -> tuple[Score, Picture | None]:
                score = asyncio.ensure_future(self._branches.score(query, ref, deadline))
                reference = asyncio.ensure_future(reference_of(query))
                try:
                    return await asyncio.gather(score, reference)
                finally:
                    score.cancel()
                    reference.cancel()

            compared = await _all(both(query) for query, _ in pictures)
            found = [
                Scored(upload.name, picture, score, decide(score.score, calibration, rate or self._rate), reference)
                for upload, (_, picture), (score, reference) in zip(uploads, pictures, compared, strict=True)
            ]
            answers = await _all(_in_thread(deadline, answer, scored) for scored in found)
        for scored in found:
            decision = scored.decision
            metrics.record_score(ref.category, scored.score.score, decision.p_value, decision.is_anomalous)
        return answers

    async def learn(self, name: str, upload: Upload, verdict: Verdict, note: str | None, by: str) -> Learned:
        """Take an inspector's verdict on a picture.

        Raises:
            RequestError: a picture is withdrawn that is none of the normal ones, or a reference.
            ConflictError: others change the category all the time. Else as `score`.
        """
        ref = await self.catalog.current(name)
        deadline = self._deadline()
        if verdict == "anomalous":
            async with self._keeping(deadline):
                picture = await _in_thread(deadline, _decoded, upload)
                known = await self._by(deadline, store_call(keep_anomalous, self.store, ref, picture, by, note))
            return Learned(ref, counts_as_normal=known is not None)
        if verdict == "withdrawn":
            async with self._keeping(deadline):  # nothing is scored, so it does not wait with what is
                ref = await self._by(deadline, store_call(self.store.current, name))
                manifest = await self._by(deadline, self.catalog.manifest_of(ref))
                query, _ = await self._prepare(upload, manifest.resolution, deadline)
                ref = await self._branches.withdraw_normal(query, ref, by, note, deadline)
            self._forget(name)
            return Learned(ref, counts_as_normal=False)
        with self._branches.admitted(1):
            for attempt in range(FEEDBACK_ATTEMPTS):
                manifest = await self._by(deadline, self.catalog.manifest_of(ref))
                query, _ = await self._prepare(upload, manifest.resolution, deadline)
                score = await self._branches.score(query, ref, deadline)
                try:
                    ref = await self._branches.accept_normal(query, ref, score, by, note, deadline)
                    break
                except ConflictError:  # the category was onboarded anew in between
                    if attempt == FEEDBACK_ATTEMPTS - 1:
                        raise
                    ref = await self._by(deadline, store_call(self.store.current, name))
        self._forget(name)
        return Learned(ref, counts_as_normal=True)

    async def feedback(self, name: str) -> list[ListedFeedback]:
        """The verdicts given on a category, oldest first."""
        return await self._by(self._deadline(), self._listing.feedback(name))

    async def rollback(self, name: str, version: str | None) -> VersionRef:
        """Let an earlier version serve again; see `CategoryStore.rollback`."""
        deadline = self._deadline()
        earlier = (await self._by(deadline, store_call(self.store.pointer, name))).history
        wanted = version or (earlier[-1] if earlier else None)
        if wanted in earlier:  # else the store says what is wrong
            async with _told_by(deadline, f"version {wanted} of {name} did not load in time: send it again"):
                await self._branches.check_loads(VersionRef(name, wanted))
        late = f"store {self.store.url} did not answer in time: look which version serves before you send it again"
        async with _told_by(deadline, late):
            ref = await store_call(self.store.rollback, name, version)
        self._forget(name)
        return ref

    async def categories(self) -> list[CategoryAnswer]:
        """Every category and the version that serves for it; see `Listing.categories`.

        Raises:
            StoreError: there is no reading which categories there are.
            DeadlineError: the list is not complete yet.
        """
        return await self._by(self._deadline(), self._listing.categories())

    async def category(self, name: str) -> CategoryAnswer:
        """One category and the version that serves for it."""
        return await self._by(self._deadline(), self._listing.category(name))

    async def category_details(self, name: str) -> CategoryDetails:
        """One category with its calibration and its latest versions; one that is not whole is left out and logged."""
        return await self._by(self._deadline(), self._listing.details(name))

    def _forget(self, name: str) -> None:
        """Look anew which version serves: it was just changed through this very gateway."""
        self.catalog.forget(name)
        self._listing.forget()

    async def ready(self) -> dict[str, bool]:
        """Which of the branches and the store can do their part; what does not say so in time cannot."""
        reading = self._reading
        if reading is None or reading.done():  # one at a time: it may hang, and anybody may ask
            reading = self._reading = asyncio.create_task(self._can_read())
        ready, _ = await asyncio.gather(self._branches.ready(), asyncio.wait([reading], timeout=READY_TIMEOUT_SECONDS))
        if not reading.done():
            logger.warning("not ready: store %s does not answer", self.store.url)
        return ready | {"store": reading.done() and reading.result()}

    async def _can_read(self) -> bool:
        try:
            await store_call(read_tokens, self.store)
        except O2NError as error:
            logger.warning("not ready: %s", error)
            return False
        return True

    def _deadline(self) -> float:
        """When a request that arrives now has to be answered."""
        return time.monotonic() + self._branches.deadline_seconds

    @asynccontextmanager
    async def _keeping(self, deadline: float) -> AsyncIterator[None]:
        """One of few who decode a picture without scoring it; the others may hang at the store."""
        await self._by(deadline, self._keepers.acquire())
        try:
            yield
        finally:
            self._keepers.release()

    async def _by(self, deadline: float, read: Awaitable[T]) -> T:
        """What `read` finds in the store, by a request's deadline."""
        async with _told_by(deadline, f"store {self.store.url} did not answer in time: send it again later"):
            return await read

    async def _prepare(self, upload: Upload, side: int, deadline: float) -> tuple[Picture, Picture]:
        """The query at the version's size, and the picture to lay a heat map over."""

        def run() -> tuple[Picture, Picture]:
            picture = _decoded(upload)
            return images.resize(picture, side), images.fit(picture, OVERLAY_SIDE)

        return await _in_thread(deadline, run)


def _decoded(upload: Upload) -> Picture:
    return images.decode(upload.data, upload.name) if isinstance(upload.data, bytes) else upload.data


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of it comes to, done side by side. Where one fails nobody waits for the rest any more: it is given up,
    for its request is answered and no longer counted."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


async def _in_thread(deadline: float, function: Callable[..., T], *arguments: object) -> T:
    """What a function makes of pictures, by a request's deadline; what is not begun until then is left undone."""
    async with _told_by(deadline, "the pictures were not read and drawn in time: send fewer at once, or smaller ones"):
        return await asyncio.get_running_loop().run_in_executor(_decoders, function, *arguments)


@asynccontextmanager
async def _told_by(deadline: float, late: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlineError(late) from None
