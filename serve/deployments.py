"""The deployments behind the gateway: the encoder and the three branches, each batching across categories.

A query's features travel from the encoder to the branches by reference, through Ray's object store. One item's error
never fails the others of its batch.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from o2n.branches import NormalBranch, PersonalBranch, TextBranch, check_numbers
from o2n.category import VersionRef
from o2n.errors import O2NError
from o2n.features import by_shape, clip_features, counterpart_features, features_to_compare
from o2n.feedback import accept_normal, withdraw_normal
from o2n.foundation import Foundation, load_foundation
from o2n.fusion import Local
from o2n.images import Picture
from o2n.models import to_pictures
from o2n.profiles import Profile
from o2n.references import References
from o2n.store import CategoryStore
from serve import metrics
from serve.batching import Batcher
from serve.store_calls import store_call

Features = NDArray[np.float32]  # (S·L, G, D), at S scales

MAX_BATCH = 8
# Versions that a replica loads at once; the store's other threads are for references and feedback.
LOADERS = 2
# For so long what was computed last is proof that the model computes.
PROOF_SECONDS = 3.0

T = TypeVar("T")
B = TypeVar("B", bound=PersonalBranch | NormalBranch | TextBranch)


class _Replica:
    """A replica that can tell whether its model computes: Serve replaces one that does not, and /readyz asks too.

    What it has just computed for somebody is proof enough.
    """

    _computed = float("-inf")
    _checking: asyncio.Task[None] | None = None

    async def check_health(self) -> None:
        """Raises: FoundationError, or whatever torch does, where the model does not compute any more."""
        if time.monotonic() - self._computed > PROOF_SECONDS:
            # However many ask, one computes: anybody may ask for /readyz.
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._run(self._check))
            await asyncio.shield(self._checking)

    async def ready(self) -> bool:
        await self.check_health()
        return True

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call `function` in a thread, and note that it came back."""
        result = await asyncio.to_thread(function, *arguments)
        self._computed = time.monotonic()
        return result

    def _check(self) -> None:
        raise NotImplementedError


class _Branch(_Replica, Generic[B]):
    """A replica that loads what versions need, each before its requests join a batch: nobody else waits for it."""

    def __init__(self, name: str, branch: B) -> None:
        self._branch = branch
        self._cache = metrics.Cache(name, branch.loaded)
        self._loading: dict[VersionRef, asyncio.Task[object]] = {}
        self._turn = asyncio.Semaphore(LOADERS)

    async def check_health(self) -> None:
        """As every replica; Serve asks often enough for the cache's counts to be told along."""
        self._cache.tell()
        await super().check_health()

    async def warm(self, ref: VersionRef) -> None:
        """Load a version, if it is not; requests that want the same wait for one loading.

        Raises:
            NotFoundError, IntegrityError, FoundationError, StoreError: a version that cannot be used.
        """
        if ref in self._branch.loaded:
            return
        if ref not in self._loading:
            self._loading[ref] = asyncio.create_task(self._load(ref))
            self._loading[ref].add_done_callback(lambda _: self._loading.pop(ref))
        await asyncio.shield(self._loading[ref])

    async def _load(self, ref: VersionRef) -> object:
        async with self._turn:
            return await store_call(self._branch.loaded.get, ref)

    def _check(self) -> None:
        self._branch.check()


class Encoder(_Replica):
    """Pictures -> patch features, once per query and encoder."""

    def __init__(self, profile: Profile) -> None:
        self._foundation = load_foundation(profile)
        self._blank = torch.zeros(1, 3, profile.comparing.resolution, profile.comparing.resolution)
        self._features = Batcher(self._encode, MAX_BATCH)
        self._read = Batcher(self._encode_to_read, MAX_BATCH)

    async def encode(self, picture: Picture) -> Features:
        """A query, uint8 (R, R, 3) -> float32 (S·L, G, D) for S_P and S_N; where CLIP is the only encoder, for all."""
        return await self._features(picture)

    async def encode_to_read(self, picture: Picture) -> Features:
        """A query, uint8 (R, R, 3) -> float32 (S·L, G, D) of CLIP, for S_text."""
        return await self._read(picture)

    async def _encode(self, pictures: list[Picture]) -> list[Features]:
        return await self._by(features_to_compare, pictures)

    async def _encode_to_read(self, pictures: list[Picture]) -> list[Features]:
        return await self._by(clip_features, pictures)

    async def _by(
        self, features: Callable[[Foundation, list[Picture]], torch.Tensor], pictures: list[Picture]
    ) -> list[Features]:
        def encode(part: list[Picture]) -> list[Features]:
            return list(features(self._foundation, part).cpu().numpy())

        with metrics.batch("encoder", len(pictures)):
            return await self._run(by_shape, encode, pictures, np.shape)

    def _check(self) -> None:
        check_numbers("encoder", features_to_compare(self._foundation, self._blank))


class Personalizer(_Branch[PersonalBranch]):
    """Query -> its normal counterpart and its distance to it (eq. 2-4), one UNet batch for all categories.

    It encodes the counterparts with a model of its own: that is little beside the UNet's work, and less than it would
    take to call the encoder.
    """

    def __init__(self, profile: Profile, store: CategoryStore, budget: int) -> None:
        self._foundation = load_foundation(profile)
        super().__init__("personal", PersonalBranch(self._foundation, store, budget))
        self._comparisons = Batcher(self._compare, MAX_BATCH)

    async def compare(self, picture: Picture, features: Features, ref: VersionRef) -> tuple[Local, Picture]:
        """Returns: float32 (L, G) distances, and the counterpart, uint8 (R, R, 3)."""
        await self.warm(ref)
        return _or_raise(await self._comparisons((picture, features, ref)))

    async def _compare(
        self, items: list[tuple[Picture, Features, VersionRef]]
    ) -> list[tuple[Local, Picture] | O2NError]:
        def compare(part: list[tuple[Picture, Features, VersionRef]]) -> list[tuple[Local, Picture]]:
            pictures, features, refs = (list(column) for column in zip(*part, strict=True))
            counterparts = self._branch.counterparts(pictures, refs)
            redrawn = counterpart_features(self._foundation, counterparts).cpu()
            whole = [one[: redrawn.shape[1]] for one in features]
            distances = self._branch.distances(_tensor(whole), redrawn, refs)
            return list(zip(distances.numpy(), to_pictures(counterparts), strict=True))

        with metrics.batch("personal", len(items)):
            return await self._run(_isolated, compare, items)


class NormalScorer(_Branch[NormalBranch]):
    """Features -> distance to the nearest normal patch (eq. 5)."""

    def __init__(self, profile: Profile, store: CategoryStore, budget: int, reference_budget: int) -> None:
        self._foundation, self._store = load_foundation(profile), store
        super().__init__("normal", NormalBranch(self._foundation, store, budget))
        self._references = References(self._foundation, store, reference_budget)
        self._distances = Batcher(self._measure, MAX_BATCH)

    async def compare(self, features: Features, ref: VersionRef) -> Local:
        """Returns: float32 (L, G)."""
        await self.warm(ref)
        return _or_raise(await self._distances((features, ref)))

    async def nearest_reference(self, features: Features, ref: VersionRef) -> Picture:
        """Returns: the normal picture nearest to the query, uint8 (R, R, 3)."""
        return await store_call(self._references.nearest, torch.tensor(features), ref)

    async def _measure(self, items: list[tuple[Features, VersionRef]]) -> list[Local | O2NError]:
        with metrics.batch("normal", len(items)):
            return await self._run(_isolated, lambda part: _compare(self._branch.distances, part), items)

    async def accept(
        self,
        picture: Picture,
        features: Features,
        ref: VersionRef,
        s_p: float,
        s_text: float,
        by: str,
        note: str | None,
    ) -> VersionRef:
        """Publish a version that knows `picture` as normal; see `feedback.accept_normal`."""
        return await store_call(
            accept_normal,
            self._store,
            self._foundation,
            ref,
            np.array(picture),
            np.array(features),
            s_p,
            s_text,
            by,
            note,
        )

    async def withdraw(self, picture: Picture, ref: VersionRef, by: str, note: str | None) -> VersionRef:
        """Publish a version that knows `picture` as normal no more; see `feedback.withdraw_normal`."""
        return await store_call(withdraw_normal, self._store, ref, np.array(picture), by, note)


class TextScorer(_Branch[TextBranch]):
    """Features -> how abnormal they read (eq. 6)."""

    def __init__(self, profile: Profile, store: CategoryStore, budget: int) -> None:
        super().__init__("text", TextBranch(load_foundation(profile), store, budget))
        self._probabilities = Batcher(self._read, MAX_BATCH)

    async def compare(self, features: Features, ref: VersionRef) -> Local:
        """Returns: float32 (L, G)."""
        await self.warm(ref)
        return _or_raise(await self._probabilities((features, ref)))

    async def _read(self, items: list[tuple[Features, VersionRef]]) -> list[Local | O2NError]:
        with metrics.batch("text", len(items)):
            return await self._run(_isolated, lambda part: _compare(self._branch.probabilities, part), items)


def _compare(
    branch: Callable[[torch.Tensor, list[VersionRef]], torch.Tensor], items: list[tuple[Features, VersionRef]]
) -> list[Local]:
    def run(part: list[tuple[Features, VersionRef]]) -> list[Local]:
        return list(branch(_tensor([features for features, _ in part]), [ref for _, ref in part]).numpy())

    return by_shape(run, items, lambda item: item[0].shape)


def _isolated(run: Callable[[list[Any]], list[T]], items: list[Any]) -> list[T | O2NError]:
    """`run` on all items at once; if that fails, on each alone, so that only the culprit gets the error."""
    try:
        return list(run(items))
    except O2NError as error:
        if len(items) == 1:
            return [error]
        return [result for item in items for result in _isolated(run, [item])]


def _or_raise(result: T | O2NError) -> T:
    if isinstance(result, O2NError):
        raise result
    return result


def _tensor(features: list[Features]) -> torch.Tensor:
    return torch.from_numpy(np.stack(features))
