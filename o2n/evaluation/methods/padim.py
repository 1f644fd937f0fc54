"""PaDiM (Defard et al., ICPR 2021): how far each patch is from a Gaussian of the references' patches at its place."""

from dataclasses import dataclass

from torch import Tensor

from o2n.evaluation.methods.encoding import patches, scored, side_by_side
from o2n.evaluation.methods.gaussians import PlaceGaussians, chosen_dimensions
from o2n.evaluation.methods.interface import Scores
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.models import VisionModel
from o2n.profiles import Profile

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1


class PaDiM:
    """PaDiM on the profile's encoder."""

    name = "PaDiM"

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def fit(self, references: list[Picture], object_word: str) -> "PaDiMFitted":
        encoder, levels = load_foundation(self._profile).comparing, self._profile.comparing.levels
        return PaDiMFitted(encoder, levels, PlaceGaussians(_features(encoder, references, levels)))


@dataclass(frozen=True)
class PaDiMFitted:
    """PaDiM that knows one category."""

    encoder: VisionModel
    levels: tuple[int, ...]
    gaussians: PlaceGaussians

    def score(self, pictures: list[Picture]) -> Scores:
        distance = self.gaussians.distance(_features(self.encoder, pictures, self.levels))
        return scored(distance.amax(dim=-1), distance)


def _features(encoder: VisionModel, pictures: list[Picture], levels: tuple[int, ...]) -> Tensor:
    found = side_by_side(patches(encoder, pictures, levels))
    return found[..., chosen_dimensions(found.shape[-1])]
