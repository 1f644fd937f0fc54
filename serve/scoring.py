"""One picture through the encoder and the three branches: handles in, a score out. Knows no HTTP and no model.

Scoring has no side effect, so a picture whose replica was lost goes through all of it once more, within its deadline.
"""

import asyncio
import logging
import time

from ray.serve.handle import DeploymentHandle

from o2n.category import VersionRef
from o2n.errors import DeadlineError
from o2n.fusion import Score, fuse_maps
from o2n.images import Picture
from o2n.profiles import Profile

READY_TIMEOUT_SECONDS = 5.0

logger = logging.getLogger("ray.serve")


class Branches:
    """The deployments behind a gateway."""

    def __init__(
        self,
        profile: Profile,
        encoder: DeploymentHandle,
        personalizer: DeploymentHandle,
        normal: DeploymentHandle,
        text: DeploymentHandle,
    ) -> None:
        self._profile = profile
        self._encoder, self._personalizer, self._normal, self._text = encoder, personalizer, normal, text

    async def score(self, query: Picture, ref: VersionRef, deadline: float) -> Score:
        """Score one query with one version.

        Args:
            query: uint8 (R, R, 3) at the model's resolution.
            deadline: when the answer is of no use any more, in `time.monotonic()`'s seconds.

        Raises:
            DeadlineError: it has passed.
            OverloadedError: a branch takes no more.
            NotFoundError, IntegrityError, FoundationError, StoreError: a version that cannot be used.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._once(query, ref)
        except TimeoutError:
            raise DeadlineError(
                f"a picture of {ref.category} was not scored in time: send it again, or fewer at once"
            ) from None

    async def reference(self, query: Picture, ref: VersionRef, deadline: float) -> Picture:
        """The version's normal picture that is nearest to a query, uint8 (R, R, 3); as `score`."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._normal.nearest_reference.remote(self._encoder.encode.remote(query), ref)
        except TimeoutError:
            raise DeadlineError(
                f"the nearest picture of {ref.category} was not found in time: send it again, or fewer at once"
            ) from None

    async def _once(self, query: Picture, ref: VersionRef) -> Score:
        features = self._encoder.encode.remote(query)
        # The features are not awaited here: they go from the encoder to the branches by reference.
        (personal, counterpart), normal, text = await asyncio.gather(
            self._personalizer.compare.remote(query, features, ref),
            self._normal.compare.remote(features, ref),
            self._text.compare.remote(features, ref),
        )
        return fuse_maps(ref, counterpart, personal, normal, text, self._profile)

    async def accept_normal(
        self, query: Picture, ref: VersionRef, score: Score, by: str, note: str | None, deadline: float
    ) -> VersionRef:
        """Teach a category that a picture is normal; see `feedback.accept_normal`.

        Args: query: uint8 (R, R, 3) at the model's resolution; ref, score: the version that was asked, and its answer.

        Raises:
            ConflictError: another version serves by now. Else as `score`.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                features = self._encoder.encode.remote(query)
                accepted: VersionRef = await self._normal.accept.remote(
                    query, features, ref, score.s_p, score.s_text, by, note
                )
                return accepted
        except TimeoutError:
            raise DeadlineError(
                f"feedback on {ref.category} was not taken in in time: send it again, it is taken once"
            ) from None

    async def ready(self) -> dict[str, bool]:
        """Encoder, personalizer, normal, text: whether each has its models and computes."""
        handles = {
            "encoder": self._encoder,
            "personalizer": self._personalizer,
            "normal": self._normal,
            "text": self._text,
        }

        async def is_ready(handle: DeploymentHandle) -> bool:
            try:
                async with asyncio.timeout(READY_TIMEOUT_SECONDS):
                    await handle.ready.remote()
            except Exception as error:  # whatever is wrong with a branch, the answer is that it is not ready
                logger.warning("not ready: %s: %r", handle.deployment_name, error)
                return False
            return True

        return dict(zip(handles, await asyncio.gather(*map(is_ready, handles.values())), strict=True))
