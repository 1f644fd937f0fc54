"""One-to-Normal itself as one of the methods: onboarded into a store that lasts as long as it is fitted."""

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from o2n import images
from o2n.branches import PersonalBranch
from o2n.category import VersionRef
from o2n.evaluation.fusions import on_scales
from o2n.evaluation.methods.interface import Scores
from o2n.export import normal_pictures
from o2n.features import counterpart_features, features_to_compare
from o2n.foundation import load_foundation
from o2n.fusion import Compared, Score, fuse_maps, image_score
from o2n.images import Picture
from o2n.onboard import onboard
from o2n.profiles import BRANCHES, Profile
from o2n.store import CategoryStore
from o2n.triplet import BATCH, TripletScorer
from o2n.version import scales_in, unpack_pictures

# Outcomes, and those of others with its pool, are kept for as long as this stays the same: raise it when what is
# computed changes.
REVISION = 3

_NONE = np.empty((0, 0, 3), np.uint8)


class OneToNormal:
    """The whole method with the settings of a profile. Its parts are the branches: `BRANCHES`."""

    name = "One-to-Normal"

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def fit(self, references: list[Picture], object_word: str) -> "OneToNormalFitted":
        folder = tempfile.TemporaryDirectory(prefix="o2n-evaluation-")
        store = CategoryStore(folder.name)
        ref = onboard("category", references, self._profile, store, object_word).ref
        return OneToNormalFitted(self._profile, store, ref, folder)


@dataclass(frozen=True)
class OneToNormalFitted:
    """A category version in a store of its own. folder: keeps the store on disk. compared: by the digests of pictures,
    the three comparisons of each that was scored, without its counterpart."""

    profile: Profile
    store: CategoryStore
    ref: VersionRef
    folder: "tempfile.TemporaryDirectory[str]"
    compared: dict[str, Compared] = field(default_factory=dict)

    def score(self, pictures: list[Picture]) -> Scores:
        compared = self._scorer.compare(pictures, [self.ref] * len(pictures))
        for picture, one in zip(pictures, compared, strict=True):
            self.compared[images.digest(picture)] = one._replace(counterpart=_NONE)
        found = [fuse_maps(*one, self.profile) for one in compared]
        return Scores(
            np.array([score.score for score in found]),
            np.stack([score.anomaly_map for score in found]),
            dict(
                zip(BRANCHES, np.array([[score.s_p, score.s_n, score.s_text] for score in found]).T, strict=True),
            ),
        )

    def look(self, pictures: list[Picture]) -> list[Score]:
        """Everything about each picture, its counterpart too."""
        return self._scorer.score(pictures, [self.ref] * len(pictures))

    @cached_property
    def _scorer(self) -> TripletScorer:
        return TripletScorer(self.profile, self.store)

    def personal(self, pictures: list[Picture], prompts: int) -> NDArray[np.float64]:
        """S_P of each picture, float64 (N,), had it been redrawn with so many prompts, 0 being the empty one: the
        ablation of the paper's table 5. In a calibrated profile it is on the scale of the profile's own number.
        """
        profile = self.profile.model_copy(update={"prompts": prompts})
        foundation = load_foundation(profile)
        manifest = self.store.manifest(self.ref)
        ref = self.store.publish(manifest.model_copy(update={"category": f"prompts-{prompts}", "profile": profile}))
        branch = PersonalBranch(foundation, self.store)
        found: list[float] = []
        for start in range(0, len(pictures), BATCH):
            part = [images.resize(one, manifest.resolution) for one in pictures[start : start + BATCH]]
            refs = [ref] * len(part)
            queries = features_to_compare(foundation, part)
            redrawn = counterpart_features(foundation, branch.counterparts(part, refs))
            found += [image_score(local) for local in branch.distances(queries, redrawn, refs).numpy()]
        return np.array(found)

    def fused_as(self, other: Profile) -> Callable[[list[Picture]], NDArray[np.float64]]:
        """What gives the score of each picture that was scored, float64 (N,), were it fused as another profile does:
        the ablation of eq. (7), of the very same comparisons."""
        manifest = self.store.manifest(self.ref)
        references = unpack_pictures(self.store.get_blob(manifest.blobs["references"]), "references")
        profile = self.profile.fused_as(other)
        ref = onboard(f"fused-{profile.fusion}", references, profile, self.store, manifest.object_word).ref
        own, others = (scales_in(self.store, self.store.manifest(one)) for one in (self.ref, ref))

        def fused(pictures: list[Picture]) -> NDArray[np.float64]:
            compared = [on_scales(self.compared[images.digest(picture)], own, others) for picture in pictures]
            return np.array([fuse_maps(*one, profile).score for one in compared])

        return fused

    def pool(self, count: int) -> list[Picture]:
        """`count` generated pictures that pass for good, uint8 (R, R, 3), for other methods to use (the paper's section
        3.4); fewer, or none, where fewer pass. They are those of `jobs/export_pool.py`."""
        with closing(normal_pictures(self.store, self.ref)) as passing:
            return list(islice(passing, count))
