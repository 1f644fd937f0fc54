"""AnomalyDINO (Damm et al., WACV 2025): the distance of patches to the nearest of the turned references, and the mean
of the largest of them."""

from dataclasses import dataclass

import numpy as np

from o2n import images
from o2n.bank import MemoryBank
from o2n.evaluation.methods.encoding import patches, scored
from o2n.evaluation.methods.interface import Scores
from o2n.images import Picture
from o2n.models import VisionModel, weights_digest
from o2n.poses import moved, pose_of

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

LARGEST = 0.01  # share of the patches whose mean distance is the score
TURNS = 8  # of each reference, in a whole circle


class AnomalyDINO:
    """Args: encoder: whose patches are compared, at `levels`; the paper takes DINOv2's last block.

    The background of queries is not left out: the paper decides that for each category.
    """

    def __init__(self, name: str, encoder: VisionModel, levels: tuple[int, ...]) -> None:
        self.name = name
        self.weights = f"{weights_digest([encoder.seeing])} at {encoder.resolution}, {levels}"
        self._encoder, self._levels = encoder, levels

    def fit(self, references: list[Picture], object_word: str) -> "AnomalyDINOFitted":
        known = [images.resize(picture, self._encoder.resolution) for picture in references]
        turned = moved(known, [pose_of(2 * np.pi * turn / TURNS) for turn in range(1, TURNS)])
        bank = MemoryBank(patches(self._encoder, known + turned, self._levels))
        return AnomalyDINOFitted(self._encoder, self._levels, bank)


@dataclass(frozen=True)
class AnomalyDINOFitted:
    """AnomalyDINO that knows one category."""

    encoder: VisionModel
    levels: tuple[int, ...]
    bank: MemoryBank

    def score(self, pictures: list[Picture]) -> Scores:
        distance = self.bank.distance(patches(self.encoder, pictures, self.levels)).mean(dim=1)
        largest = max(1, int(LARGEST * distance.shape[-1]))
        return scored(distance.topk(largest, dim=-1).values.mean(dim=-1), distance)
