"""AnomalyDINO (Damm et al., WACV 2025): the distance of patches to the nearest of the turned references, and the mean
of the largest of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from o2n import images
from o2n.bank import MemoryBank
from o2n.evaluation.methods.encoding import as_grid, patches, scored
from o2n.evaluation.methods.interface import Scored
from o2n.images import Picture
from o2n.models import VisionModel, weights_digest
from o2n.poses import moved, pose_of

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

LARGEST = 0.01  # share of the patches whose mean distance is the score
TURNS = 8  # of each reference, in a whole circle
# Along the first principal component, as a share of a feature's length: the paper's threshold is 10, and DINOv2's own
# features are roughly 50 long.
FOREGROUND = 0.2
CENTRE, LEAST_IN_CENTRE = 0.2, 0.35  # border left out, and what share of the rest the foreground has


class AnomalyDINO:
    """Args: encoder: whose patches are compared, at `levels`; the paper takes DINOv2's last block. masked: whether the
    background of queries is left out; the paper decides it for each category."""

    def __init__(self, name: str, encoder: VisionModel, levels: tuple[int, ...], masked: bool = False) -> None:
        self.name = name
        self.weights = f"{weights_digest([encoder.seeing])} at {encoder.resolution}, {levels}"
        self._encoder, self._levels, self._masked = encoder, levels, masked

    def fit(self, references: list[Picture], object_word: str) -> "AnomalyDINOFitted":
        known = [images.resize(picture, self._encoder.resolution) for picture in references]
        turned = moved(known, [pose_of(2 * np.pi * turn / TURNS) for turn in range(1, TURNS)])
        bank = MemoryBank(patches(self._encoder, known + turned, self._levels))
        return AnomalyDINOFitted(self._encoder, self._levels, bank, self._masked)


@dataclass(frozen=True)
class AnomalyDINOFitted:
    """AnomalyDINO that knows one category."""

    encoder: VisionModel
    levels: tuple[int, ...]
    bank: MemoryBank
    masked: bool

    def score(self, pictures: list[Picture]) -> Scored:
        features = patches(self.encoder, pictures, self.levels)
        distance = self.bank.distance(features).mean(dim=1)
        if self.masked:
            shown = np.stack([foreground(one).ravel() for one in features[:, -1]])
            distance = distance * torch.from_numpy(shown)
        largest = max(1, int(LARGEST * distance.shape[-1]))
        return scored(distance.topk(largest, dim=-1).values.mean(dim=-1), distance)


def foreground(features: Tensor) -> NDArray[np.bool_]:
    """Where the part is: one side of the first principal component, the one that fills more of the centre.

    Args: features: float32 (G, D), D-vectors of length 1. Returns: bool (g, g); all of it, if nothing stands out.
    """
    away = features - features.mean(dim=0)
    along = as_grid(away @ torch.linalg.svd(away, full_matrices=False)[2][0]).numpy()
    border = int(CENTRE * len(along))
    centre = (slice(border, len(along) - border),) * 2
    mask = max((along > FOREGROUND, -along > FOREGROUND), key=lambda side: side[centre].sum())
    if mask[centre].mean() <= LEAST_IN_CENTRE:
        return np.ones_like(mask)
    square = np.ones((3, 3), bool)
    return ndimage.binary_closing(np.pad(ndimage.binary_dilation(mask, square), 1, mode="edge"), square)[1:-1, 1:-1]
