"""PaDiM (Defard et al., ICPR 2021): how far each patch is from a Gaussian of the references' patches at its place."""

from dataclasses import dataclass

from torch import Tensor

from o2n.evaluation.methods.encoding import patches, scored, side_by_side
from o2n.evaluation.methods.gaussians import PlaceGaussians, chosen_dimensions
from o2n.evaluation.methods.interface import Scored
from o2n.foundation import ClipModel, load_foundation
from o2n.images import Picture
from o2n.profiles import Profile


class PaDiM:
    """PaDiM on the profile's encoder."""

    name = "PaDiM"

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def fit(self, references: list[Picture], object_word: str) -> "PaDiMFitted":
        clip, levels = load_foundation(self._profile).clip, self._profile.encoder.levels
        return PaDiMFitted(clip, levels, PlaceGaussians(_features(clip, references, levels)))


@dataclass(frozen=True)
class PaDiMFitted:
    """PaDiM that knows one category."""

    clip: ClipModel
    levels: tuple[int, ...]
    gaussians: PlaceGaussians

    def score(self, pictures: list[Picture]) -> Scored:
        distance = self.gaussians.distance(_features(self.clip, pictures, self.levels))
        return scored(distance.amax(dim=-1), distance)


def _features(clip: ClipModel, pictures: list[Picture], levels: tuple[int, ...]) -> Tensor:
    found = side_by_side(patches(clip, pictures, levels))
    return found[..., chosen_dimensions(found.shape[-1])]
