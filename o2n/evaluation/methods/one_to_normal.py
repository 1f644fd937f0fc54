"""One-to-Normal itself as one of the methods: onboarded into a store that lasts as long as it is fitted."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from o2n import images
from o2n.branches import PersonalBranch
from o2n.category import VersionRef
from o2n.customize import load_adapter, unload_adapter
from o2n.evaluation.methods.interface import Scored
from o2n.features import patch_features
from o2n.foundation import load_foundation
from o2n.fusion import Score, image_score
from o2n.images import Picture
from o2n.onboard import onboard
from o2n.personalize import noise_for, personalize
from o2n.pool import draw_pool
from o2n.profiles import Profile
from o2n.prompts import personal_prompts
from o2n.store import CategoryStore
from o2n.triplet import BATCH, TripletScorer

BRANCHES = ("S_P", "S_N", "S_text")

_ADAPTER = "o2n_evaluation"


class OneToNormal:
    """The whole method with the settings of a profile. Its parts are the branches: `BRANCHES`."""

    name = "One-to-Normal"

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def fit(self, references: list[Picture], object_word: str) -> "OneToNormalFitted":
        folder = tempfile.TemporaryDirectory(prefix="o2n-evaluation-")
        store = CategoryStore(folder.name)
        ref = onboard("category", references, self._profile, store, object_word).ref
        small = [images.resize(picture, self._profile.diffusion.resolution) for picture in references]
        return OneToNormalFitted(self._profile, store, ref, small, object_word, folder)


@dataclass(frozen=True)
class OneToNormalFitted:
    """A category version in a store of its own. references: uint8 (R, R, 3). folder: keeps the store on disk."""

    profile: Profile
    store: CategoryStore
    ref: VersionRef
    references: list[Picture]
    object_word: str
    folder: "tempfile.TemporaryDirectory[str]"

    def score(self, pictures: list[Picture]) -> Scored:
        found = self.look(pictures)
        return Scored(
            np.array([score.score for score in found]),
            np.stack([score.anomaly_map for score in found]),
            dict(
                zip(BRANCHES, np.array([[score.s_p, score.s_n, score.s_text] for score in found]).T, strict=True),
            ),
        )

    def look(self, pictures: list[Picture]) -> list[Score]:
        """Everything about each picture, its counterpart too."""
        return TripletScorer(self.profile, self.store).score(pictures, [self.ref] * len(pictures))

    def personal(self, pictures: list[Picture], prompts: Sequence[str]) -> NDArray[np.float64]:
        """S_P of each picture, float64 (N,), had it been redrawn with `prompts`: the ablation of the paper's table 5.

        In a calibrated profile it is on the scale of the version's own prompts.
        """
        foundation, side = load_foundation(self.profile), self.profile.diffusion.resolution
        model, levels = foundation.diffusion, self.profile.encoder.levels
        branch = PersonalBranch(foundation, self.store)
        adapter = self.store.manifest(self.ref).blobs["adapter"]
        text = model.embed(list(prompts))
        found: list[float] = []
        load_adapter(model, _ADAPTER, self.store.get_blob(adapter))
        try:
            for start in range(0, len(pictures), BATCH):
                part = [images.resize(picture, side) for picture in pictures[start : start + BATCH]]
                counterparts = personalize(
                    model,
                    part,
                    [text] * len(part),
                    [_ADAPTER] * len(part),
                    torch.stack([noise_for(one, adapter.sha256, model.latent_shape) for one in part]).to(model.device),
                    t=self.profile.t,
                    steps=self.profile.diffusion.steps,
                    guidance=self.profile.diffusion.guidance,
                )
                queries, redrawn = (patch_features(foundation.clip, x, levels) for x in (part, counterparts))
                local = branch.distances(queries, redrawn, [self.ref] * len(part))
                found += [image_score(one) for one in local.numpy()]
        finally:
            unload_adapter(model, _ADAPTER)
        return np.array(found)

    def prompts(self, count: int) -> list[str]:
        """The first `count` prompts that queries are redrawn with; none is the empty one."""
        return personal_prompts(self.object_word, count) if count else [""]

    def pool(self, count: int) -> list[Picture]:
        """`count` generated good pictures, uint8 (R, R, 3), for other methods to use (the paper's section 3.4)."""
        model = load_foundation(self.profile).diffusion
        settings = self.profile.pool.model_copy(update={"pictures": len(self.references) + count})
        profile = self.profile.model_copy(update={"pool": settings})
        load_adapter(model, _ADAPTER, self.store.get_blob(self.store.manifest(self.ref).blobs["adapter"]))
        try:
            return draw_pool(model, _ADAPTER, self.references, self.object_word, profile)
        finally:
            unload_adapter(model, _ADAPTER)
