"""References -> what it should cost S_N to find a patch elsewhere in the picture.

Where a part always lies in the same place, a patch that is normal elsewhere is none here; on a texture it is as good as
any. Which of the two a category is, its references tell: the better a weight tells them from themselves with a made-up
defect, the better it suits them.
"""

import math
from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from o2n.data.defects import TRAINING_DEFECTS
from o2n.data.procedural import spoil_photographs
from o2n.features import over_scales
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.normals import BATCH, encode, image_scores
from o2n.scales import usual_at

# The profile's own weight is left for another that tells the defects by this share better: less is chance.
MARGIN = 0.05
# So many views say enough, and what they cost does not grow with the square of the references.
MOST_VIEWS = 32


def choose_place_weight(
    foundation: Foundation, views: list[Picture], features: Tensor, origins: Sequence[int], weights: Sequence[float]
) -> float:
    """The weight with which S_N, not smoothed, is farthest, in its own spreads, from good views to the same views with
    a defect each; the profile's own where none of the others is better by `MARGIN`.

    Every view is compared with the views of the other references alone, as a query is with a bank that has not seen it.

    Args:
        views: of the references, uint8 (H, W, 3) of one size, the references first. features: float32 (N, S·L, G, D),
            theirs. origins: of each view the reference it shows; of two references at least.
        weights: those to choose from beside the profile's own.
    """
    profile, seen, shown = foundation.profile, views[:MOST_VIEWS], list(origins[:MOST_VIEWS])
    levels, references = len(profile.comparing.levels), len(set(shown))
    spoilt = spoil_photographs(np.stack(seen), profile.seed + 7, TRAINING_DEFECTS)[0]
    candidates = [profile.place_weight, *weights]
    good = _distances_to_others(features[:MOST_VIEWS], shown, features, origins, candidates)
    bad = _distances_to_others(encode(foundation, list(spoilt)), shown, features, origins, candidates)

    def separation(row: int) -> float:
        normal, defective = (over_scales(distances[row], levels) for distances in (good, bad))
        usual = usual_at(normal, references)
        low, high = image_scores(normal - usual), image_scores(defective - usual)
        return float((high.mean() - low.mean()) / ((low.var() + high.var()) / 2).sqrt().clamp_min(1e-12))

    own, *others = map(separation, range(len(candidates)))
    found, weight = max(zip(others, weights, strict=True), key=itemgetter(0))
    return weight if found - own > MARGIN * abs(own) else profile.place_weight


def distances_at(queries: Tensor, bank: Tensor, weights: Sequence[float]) -> Tensor:
    """`MemoryBank.distance` at each of W place weights, by one look at the bank.

    Args, of D-vectors of length 1: queries: float32 (B, L, G, D); bank: float32 (N, L, G, D).
    Returns: float32 (W, B, L, G).
    """
    side = math.isqrt(bank.shape[2])
    along = torch.arange(side, dtype=torch.float32) / side
    places = torch.cartesian_prod(along, along)
    apart = torch.cdist(places, places).square()
    distances = torch.empty((len(weights), *queries.shape[:3]))
    for start in range(0, len(queries), BATCH):
        part = slice(start, start + BATCH)
        similar = torch.full((*queries[part].shape[:3], bank.shape[2]), -1.0)  # to the likest at every place
        for picture in bank:
            similar = torch.maximum(similar, torch.einsum("blgd,lhd->blgh", queries[part], picture))
        for row, weight in enumerate(weights):
            distances[row, part] = (1 - (similar - weight * apart).amax(dim=-1)).clamp_min(0)
    return distances


def _distances_to_others(
    queries: Tensor, shown: Sequence[int], features: Tensor, origins: Sequence[int], weights: Sequence[float]
) -> Tensor:
    """`distances_at` of queries that show these references to the views of all others; as `choose_place_weight`."""
    distances = torch.empty((len(weights), *queries.shape[:3]))
    for reference in dict.fromkeys(shown):
        own = torch.tensor(shown) == reference
        distances[:, own] = distances_at(queries[own], features[torch.tensor(origins) != reference], weights)
    return distances
