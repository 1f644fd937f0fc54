"""The triplet: one query, three comparisons, one score. Read top to bottom, this is the scorer."""

import functools

from o2n import images
from o2n.branches import NormalBranch, PersonalBranch, TextBranch
from o2n.category import VersionRef
from o2n.features import by_shape, counterpart_features, features_to_compare, features_to_read
from o2n.foundation import load_foundation
from o2n.fusion import Compared, Score, fuse_maps
from o2n.images import Picture
from o2n.models import to_pictures
from o2n.profiles import Profile
from o2n.store import CategoryStore

BATCH = 8


class TripletScorer:
    """Scores pictures of any categories in a store. Loads the profile's models once, versions on demand."""

    def __init__(self, profile: Profile, store: CategoryStore) -> None:
        self.profile = profile
        self.foundation = load_foundation(profile)
        self._personal = PersonalBranch(self.foundation, store)
        self._normal = NormalBranch(self.foundation, store)
        self._text = TextBranch(self.foundation, store)
        self._resolution = functools.cache(lambda ref: store.manifest(ref).resolution)

    def score(self, pictures: list[Picture], refs: list[VersionRef], batch: int = BATCH) -> list[Score]:
        """Score each picture with its version; the order, the batch and the company change nothing.

        Args:
            pictures: uint8 (H, W, 3) of any sizes.
            refs: for each picture, the version it is scored with.
            batch: pictures that go through the models together.

        Raises:
            NotFoundError, IntegrityError, FoundationError: a version that cannot be used.
        """
        return [fuse_maps(*compared, self.profile) for compared in self.compare(pictures, refs, batch)]

    def compare(self, pictures: list[Picture], refs: list[VersionRef], batch: int = BATCH) -> list[Compared]:
        """What `score` fuses: the three comparisons of each picture; as `score`."""
        found: list[Compared] = []
        for start in range(0, len(pictures), batch):
            part = slice(start, start + batch)
            queries = [
                (images.resize(picture, self._resolution(ref)), ref)
                for picture, ref in zip(pictures[part], refs[part], strict=True)
            ]
            found += by_shape(self._compare_batch, queries, lambda query: query[0].shape)
        return found

    def load(self, ref: VersionRef) -> None:
        """Load a version before it is asked for; raises as `score`."""
        for branch in (self._personal, self._normal, self._text):
            branch.loaded.get(ref)

    def _compare_batch(self, batch: list[tuple[Picture, VersionRef]]) -> list[Compared]:
        queries, refs = (list(column) for column in zip(*batch, strict=True))
        features = features_to_compare(self.foundation, queries)
        counterparts = self._personal.counterparts(queries, refs)
        redrawn = counterpart_features(self.foundation, counterparts)
        personal = self._personal.distances(features, redrawn, refs)
        normal = self._normal.distances(features, refs)
        text = self._text.probabilities(features_to_read(self.foundation, queries, features), refs)
        columns = (refs, to_pictures(counterparts), personal.numpy(), normal.numpy(), text.numpy())
        return [Compared(*one) for one in zip(*columns, strict=True)]
