"""PatchCore (Roth et al., CVPR 2022): a coreset of the references' patches, and the distance to its nearest."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from o2n.evaluation.methods.encoding import as_grid, patches, scored, side_by_side
from o2n.evaluation.methods.interface import Scores
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.models import VisionModel
from o2n.profiles import Profile

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

PROJECTED = 128  # dimensions in which the coreset is chosen (section 3.2)
NEIGHBOURS = 9  # b of eq. 7


class PatchCore:
    """Args: share: of the patches that the coreset keeps."""

    name = "PatchCore"

    def __init__(self, profile: Profile, share: float = 0.1) -> None:
        self._profile, self._share = profile, share

    def fit(self, references: list[Picture], object_word: str) -> "PatchCoreFitted":
        encoder, levels = load_foundation(self._profile).comparing, self._profile.comparing.levels
        known = aware(patches(encoder, references, levels)).flatten(0, 1)
        bank = known[coreset(known, max(1, round(self._share * len(known))))]
        return PatchCoreFitted(encoder, levels, bank)


@dataclass(frozen=True)
class PatchCoreFitted:
    """bank: float32 (M, D), the coreset."""

    encoder: VisionModel
    levels: tuple[int, ...]
    bank: Tensor

    def score(self, pictures: list[Picture]) -> Scores:
        found = [self._score(one) for one in aware(patches(self.encoder, pictures, self.levels))]
        scores, maps = zip(*found, strict=True)
        return scored(torch.stack(scores), torch.stack(maps))

    def _score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (G, D) of one picture -> its score (eq. 7) and the distance of every patch."""
        distance, nearest = distances(features, self.bank).min(dim=-1)
        worst = distance.argmax()
        anchor = self.bank[nearest[worst]][None]
        count = min(NEIGHBOURS, len(self.bank))
        around = self.bank[distances(anchor, self.bank)[0].topk(count, largest=False).indices]
        softmax = distances(features[worst][None], around)[0].softmax(dim=0)
        # A patch of the bank that others are near to is not a rare one: its distance counts whole. The nearest of
        # `around` is the anchor itself.
        weight = 1 - softmax[0] if count > 1 else torch.tensor(1.0)
        return weight * distance[worst], distance


def aware(features: Tensor) -> Tensor:
    """Each patch averaged with its 8 neighbours, levels side by side (section 3.1): (N, L, G, D) -> (N, G, L·D)."""
    grid = as_grid(features.transpose(-1, -2)).flatten(0, 1)
    smooth = F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
    return side_by_side(smooth.flatten(2).transpose(-1, -2).unflatten(0, features.shape[:2]))


def coreset(vectors: Tensor, count: int) -> Tensor:
    """Algorithm 1: greedily, the vector farthest from all chosen so far, in a random projection.

    It begins with the one farthest from the mean, so that the order of the references decides nothing.

    Args: vectors: float32 (N, D). Returns: `count` rows, int64.
    """
    if vectors.shape[1] > PROJECTED:
        generator = torch.Generator().manual_seed(0)
        vectors = vectors @ (torch.randn(vectors.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5)
    chosen = [int((vectors - vectors.mean(dim=0)).norm(dim=-1).argmax())]
    nearest = (vectors - vectors[chosen[0]]).norm(dim=-1)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = nearest.minimum((vectors - vectors[chosen[-1]]).norm(dim=-1))
    return torch.tensor(chosen)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, (A, D) and (B, D) -> (A, B), not by way of a product, so that nothing is near by rounding."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
