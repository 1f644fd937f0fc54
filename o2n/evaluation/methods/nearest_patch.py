"""S_N alone (One-to-Normal, eq. 5), without the generated pool: what a bank of the references and of their moved views
says, on any encoder."""

from dataclasses import dataclass

from o2n import images
from o2n.bank import MemoryBank
from o2n.evaluation.methods.encoding import patches, scored
from o2n.evaluation.methods.interface import Scores
from o2n.images import Picture
from o2n.models import VisionModel, weights_digest
from o2n.pool import warped

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1


class NearestPatch:
    """Args: encoder, levels: whose patches are compared. warps: moved views of each reference (0-6)."""

    def __init__(self, name: str, encoder: VisionModel, levels: tuple[int, ...], warps: int) -> None:
        self.name = name
        self.weights = f"{weights_digest([encoder.seeing])} at {encoder.resolution}, {levels}"
        self._encoder, self._levels, self._warps = encoder, levels, warps

    def fit(self, references: list[Picture], object_word: str) -> "NearestPatchFitted":
        known = [images.resize(picture, self._encoder.resolution) for picture in references]
        bank = MemoryBank(patches(self._encoder, known + warped(known, self._warps), self._levels))
        return NearestPatchFitted(self._encoder, self._levels, bank)


@dataclass(frozen=True)
class NearestPatchFitted:
    """A bank of one category."""

    encoder: VisionModel
    levels: tuple[int, ...]
    bank: MemoryBank

    def score(self, pictures: list[Picture]) -> Scores:
        distance = self.bank.distance(patches(self.encoder, pictures, self.levels))
        return scored(distance.amax(dim=-1).mean(dim=-1), distance.mean(dim=1))
