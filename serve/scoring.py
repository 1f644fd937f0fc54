"""One picture through the encoder and the three branches: handles in, a score out. Knows no HTTP and no model.

Scoring has no side effect, so a picture whose replica was lost goes through all of it once more, within its deadline.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from o2n.category import VersionRef
from o2n.errors import DeadlineError, O2NError, OverloadedError, UnavailableError
from o2n.fusion import Score, fuse_maps
from o2n.images import Picture
from o2n.profiles import Profile
from serve import metrics
from serve.admission import Admission

# A picture meets a dead replica once for each that died; a router that knows of the death waits for another by itself.
ATTEMPTS = 6
RETRY_SECONDS = 0.1
READY_TIMEOUT_SECONDS = 5.0
# Anybody may ask whether the branches are ready: they are asked once in this time, however many do.
READY_FRESH_SECONDS = 1.0

# What a caller sees of a replica that died, or that took the result it was to hand on with it.
LOST = (RayActorError, ObjectLostError, WorkerCrashedError, NodeDiedError, TaskCancelledError)

T = TypeVar("T")

logger = logging.getLogger("ray.serve")


class Branches:
    """The deployments behind a gateway, and how much of their time is spoken for."""

    def __init__(
        self,
        profile: Profile,
        encoder: DeploymentHandle,
        personalizer: DeploymentHandle,
        normal: DeploymentHandle,
        text: DeploymentHandle,
        deadline_seconds: float,
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self.admission = Admission(deadline_seconds)
        self._profile = profile
        self._encoder, self._personalizer, self._normal, self._text = encoder, personalizer, normal, text
        self._asking: asyncio.Task[dict[str, bool]] | None = None
        self._asked_at = float("-inf")

    def admitted(self, pictures: int) -> AbstractContextManager[None]:
        """Within it, score so many pictures.

        Raises:
            OverloadedError: they could not be answered in time.
            UnavailableError: the service is shutting down.
        """
        return self.admission.admitted(pictures)

    async def score(self, query: Picture, ref: VersionRef, deadline: float) -> Score:
        """Score one query with one version.

        Args:
            query: uint8 (R, R, 3) at the version's resolution.
            deadline: when the answer is of no use any more, in `time.monotonic()`'s seconds.

        Raises:
            DeadlineError: it has passed.
            OverloadedError: a branch takes no more.
            UnavailableError: replicas were lost again and again, or there are none.
            NotFoundError, IntegrityError, FoundationError, StoreError: a version that cannot be used.
        """
        return await self._until(deadline, f"a picture of {ref.category}", lambda: self._once(query, ref))

    async def reference(self, query: Picture, ref: VersionRef, deadline: float) -> Picture:
        """The version's normal picture that is nearest to a query, uint8 (R, R, 3); as `score`."""

        async def once() -> Picture:
            return await self._normal.nearest_reference.remote(self._encoder.encode.remote(query), ref)

        return await self._until(deadline, f"the nearest picture of {ref.category}", once)

    async def accept_normal(
        self, query: Picture, ref: VersionRef, score: Score, by: str, note: str | None, deadline: float
    ) -> VersionRef:
        """Teach a category that a picture is normal; see `feedback.accept_normal`: taken twice it is taken once.

        Args: query: uint8 (R, R, 3) at the version's resolution; ref, score: the version asked, and its answer.

        Raises:
            ConflictError: another version serves by now. Else as `score`.
        """

        async def once() -> VersionRef:
            features = self._encoder.encode.remote(query)
            return await self._normal.accept.remote(query, features, ref, score.s_p, score.s_text, by, note)

        return await self._until(deadline, f"feedback on {ref.category}", once)

    async def withdraw_normal(
        self, query: Picture, ref: VersionRef, by: str, note: str | None, deadline: float
    ) -> VersionRef:
        """Take a picture out of the normal ones; see `feedback.withdraw_normal`: done twice it is done once.

        Args: query: uint8 (R, R, 3) at the version's resolution; ref: the version that serves.

        Raises:
            RequestError: it is none of the normal pictures, or a reference.
            ConflictError: the category was onboarded anew meanwhile. Else as `score`.
        """

        async def once() -> VersionRef:
            return await self._normal.withdraw.remote(query, ref, by, note)

        return await self._until(deadline, f"feedback on {ref.category}", once)

    async def _until(self, deadline: float, what: str, once: Callable[[], Awaitable[T]]) -> T:
        """What `once` returns, called again as often as a replica is lost under it; raises as `score`."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                for attempt in range(ATTEMPTS):
                    try:
                        return await once()
                    except (Exception, asyncio.CancelledError) as error:
                        if not _is_lost(error):
                            raise _told(error) from None
                        logger.warning("%s lost its replica and goes round again: %s", what, type(error).__name__)
                        metrics.RETRIES.inc()
                    await asyncio.sleep(random.uniform(0, RETRY_SECONDS * 2**attempt))
        except TimeoutError:
            raise DeadlineError(f"{what} was not done in time: send it again, or fewer at once") from None
        raise UnavailableError(f"{what} lost its replica {ATTEMPTS} times: send it again")

    async def _once(self, query: Picture, ref: VersionRef) -> Score:
        features = self._encoder.encode.remote(query)
        to_read = self._encoder.encode_to_read.remote(query) if self._profile.patch_encoder else features
        # The features are not awaited here: they go from the encoder to the branches by reference.
        answers = [
            asyncio.ensure_future(_answer(response))
            for response in (
                self._personalizer.compare.remote(query, features, ref),
                self._normal.compare.remote(features, ref),
                self._text.compare.remote(to_read, ref),
            )
        ]
        try:
            (personal, counterpart), normal, text = await asyncio.gather(*answers)
        except BaseException:
            # Nobody waits for the rest of a picture that failed or is late: its replicas have others to do.
            for answer in answers:
                answer.cancel()
            features.cancel()
            raise
        return fuse_maps(ref, counterpart, personal, normal, text, self._profile)

    async def check_loads(self, ref: VersionRef) -> None:
        """Load a version in one replica of each branch.

        Raises:
            NotFoundError, IntegrityError, FoundationError, StoreError: it cannot be used.
            DeadlineError, OverloadedError, UnavailableError: no telling.
        """
        handles = (self._personalizer, self._normal, self._text)
        try:
            async with asyncio.timeout(self.deadline_seconds):
                await asyncio.gather(*(_answer(handle.warm.remote(ref)) for handle in handles))
        except TimeoutError:
            raise DeadlineError(f"{ref.category} version {ref.version} did not load in time") from None
        except (Exception, asyncio.CancelledError) as error:
            raise _told(error) from None

    async def warm(self, ref: VersionRef) -> None:
        """Load a version in every replica of each branch; raises as `check_loads`.

        A replica that is starting or dying just now loads it when it is first asked for it.
        """
        found = await asyncio.gather(
            *(
                _everywhere(self.deadline_seconds, handle, "warm", ref)
                for handle in (self._personalizer, self._normal, self._text)
            )
        )
        for results in found:
            for error in results:
                if isinstance(error, BaseException) and isinstance(told := _told(error), O2NError):
                    raise told
            if all(isinstance(result, BaseException) for result in results):
                raise UnavailableError(f"{ref.category} version {ref.version}: no replica could load it")

    async def ready(self) -> dict[str, bool]:
        """Encoder, personal, normal, text: whether each has a replica that computes, or had a moment ago."""
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now > self._asked_at + READY_FRESH_SECONDS):
            self._asked_at, self._asking = now, asyncio.create_task(self._ask_ready())
        return dict(await asyncio.shield(self._asking))

    async def _ask_ready(self) -> dict[str, bool]:
        handles = {
            "encoder": self._encoder,
            "personal": self._personalizer,
            "normal": self._normal,
            "text": self._text,
        }

        async def is_ready(handle: DeploymentHandle) -> bool:
            # Asked of the replicas directly: a service is no less ready for having a queue.
            results = await _everywhere(READY_TIMEOUT_SECONDS, handle, "ready")
            errors = [result for result in results if isinstance(result, BaseException)]
            if len(errors) == len(results):
                logger.warning("not ready: %s: %r", handle.deployment_name, errors[:1])
            return len(errors) < len(results)

        return dict(zip(handles, await asyncio.gather(*map(is_ready, handles.values())), strict=True))

    async def drain(self) -> None:
        """Take on no more pictures, and return when those in flight are answered or their deadline has passed."""
        self.admission.draining = True
        give_up = time.monotonic() + self.deadline_seconds
        while self.admission.in_flight and time.monotonic() < give_up:
            await asyncio.sleep(0.05)


async def _answer(response: Any) -> Any:
    return await response


async def _everywhere(seconds: float, handle: DeploymentHandle, method: str, *arguments: object) -> list[Any]:
    """What every replica answers, or the error instead."""
    try:
        response = handle.broadcast(method, *arguments)
        return await response.results_async(timeout_s=seconds, return_exceptions=True)
    except (Exception, asyncio.CancelledError) as error:
        if _cancelled_by_caller():
            raise
        return [error]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was the consequence of: across processes Ray tells that in `cause`."""
    while error is not None:
        yield error
        error = error.cause if isinstance(error, RayTaskError) else error.__cause__


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, asyncio.CancelledError):
        # Ours, where the deadline has passed or the client has gone; else the replica's, which is being stopped.
        return not _cancelled_by_caller()
    return any(isinstance(link, LOST) for link in _chain(error))


def _cancelled_by_caller() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _told(error: BaseException) -> BaseException:
    """A branch's error as what it means to a user, where it means anything."""
    for link in _chain(error):
        if isinstance(link, O2NError) and not isinstance(link, RayTaskError):
            return link
        if isinstance(link, BackPressureError):
            return OverloadedError("a branch has a full queue: send it again later", link.retry_after_s or 1.0)
        if isinstance(link, (*LOST, DeploymentUnavailableError)):
            return UnavailableError("a branch of the service is gone for the moment: send it again")
    return error
