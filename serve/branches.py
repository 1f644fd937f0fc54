"""The deployments behind the gateway: the encoder and the three branches, each batching across categories.

A query's features travel from the encoder to the branches by reference, through Ray's object store. One item's error
never fails the others of its batch.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from o2n.branches import NormalBranch, PersonalBranch, TextBranch
from o2n.category import VersionRef
from o2n.errors import O2NError
from o2n.features import patch_features
from o2n.feedback import accept_normal
from o2n.foundation import load_foundation, to_pictures, to_unit
from o2n.fusion import Local
from o2n.images import Picture
from o2n.profiles import Profile
from o2n.references import References
from o2n.store import CategoryStore

Features = NDArray[np.float32]  # (L, G, D)
Counterpart = NDArray[np.float32]  # (3, R, R), in [0, 1]

CPU = torch.device("cpu")

MAX_BATCH = 8
# Waiting longer than an encoder's forward pass for company costs more than the company brings.
BATCH_WAIT_SECONDS = 0.005

T = TypeVar("T")


class _Ready:
    """A replica answers only once its constructor, which loads the models, has returned."""

    async def ready(self) -> bool:
        return True


class Encoder(_Ready):
    """Pictures -> patch features, once per query."""

    def __init__(self, profile: Profile) -> None:
        self._clip = load_foundation(profile).clip
        self._levels = profile.encoder.levels

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def encode(self, pictures: list[Picture | Counterpart]) -> list[Features]:
        """Queries and counterparts, as they come -> float32 (L, G, D)."""
        x = torch.cat([_unit(picture) for picture in pictures])
        features = await asyncio.to_thread(patch_features, self._clip, x, self._levels)
        return list(features.cpu().numpy())


class Personalizer(_Ready):
    """Query -> its normal counterpart and its distance to it (eq. 2-4), one UNet batch for all categories."""

    def __init__(self, profile: Profile, store: CategoryStore, encoder: DeploymentHandle) -> None:
        self._branch = PersonalBranch(load_foundation(profile), store)
        self._encoder = encoder

    async def compare(self, picture: Picture, features: Features, ref: VersionRef) -> tuple[Local, Picture]:
        """Returns: float32 (L, G) distances, and the counterpart, uint8 (R, R, 3)."""
        counterpart = _or_raise(await self._counterparts((picture, ref)))
        other = await self._encoder.encode.remote(counterpart)
        (shown,) = to_pictures(_tensor([counterpart]))
        distances = await asyncio.to_thread(self._branch.distances, _tensor([features]), _tensor([other]), [ref])
        return distances[0].numpy(), shown

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def _counterparts(self, items: list[tuple[Picture, VersionRef]]) -> list[Counterpart | O2NError]:
        def redraw(part: list[tuple[Picture, VersionRef]]) -> list[Counterpart]:
            pictures, refs = zip(*part, strict=True)
            return list(self._branch.counterparts(list(pictures), list(refs)).numpy())

        return await asyncio.to_thread(_isolated, redraw, items)


class NormalScorer(_Ready):
    """Features -> distance to the nearest normal patch (eq. 5)."""

    def __init__(self, profile: Profile, store: CategoryStore) -> None:
        self._foundation, self._store = load_foundation(profile), store
        self._branch = NormalBranch(self._foundation, store)
        self._references = References(self._foundation, store)

    async def compare(self, features: Features, ref: VersionRef) -> Local:
        """Returns: float32 (L, G)."""
        return _or_raise(await self._distances((features, ref)))

    async def nearest_reference(self, features: Features, ref: VersionRef) -> Picture:
        """Returns: the normal picture nearest to the query, uint8 (R, R, 3)."""
        return await asyncio.to_thread(self._references.nearest, torch.tensor(features), ref)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def _distances(self, items: list[tuple[Features, VersionRef]]) -> list[Local | O2NError]:
        return await asyncio.to_thread(_isolated, lambda part: _compare(self._branch.distances, part), items)

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
        return await asyncio.to_thread(
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


class TextScorer(_Ready):
    """Features -> how abnormal they read (eq. 6)."""

    def __init__(self, profile: Profile, store: CategoryStore) -> None:
        self._branch = TextBranch(load_foundation(profile), store)

    async def compare(self, features: Features, ref: VersionRef) -> Local:
        """Returns: float32 (L, G)."""
        return _or_raise(await self._probabilities((features, ref)))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def _probabilities(self, items: list[tuple[Features, VersionRef]]) -> list[Local | O2NError]:
        return await asyncio.to_thread(_isolated, lambda part: _compare(self._branch.probabilities, part), items)


def _compare(
    branch: Callable[[torch.Tensor, list[VersionRef]], torch.Tensor], items: list[tuple[Features, VersionRef]]
) -> list[Local]:
    return list(branch(_tensor([features for features, _ in items]), [ref for _, ref in items]).numpy())


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


def _unit(picture: Picture | Counterpart) -> torch.Tensor:
    # The values handed over by Ray are read-only, and torch wants arrays of its own.
    return to_unit([np.array(picture)], CPU) if picture.dtype == np.uint8 else torch.tensor(picture)[None]


def _tensor(features: list[Features]) -> torch.Tensor:
    return torch.from_numpy(np.stack(features))
