"""References -> what it should cost S_N to find a patch elsewhere in the picture.

Where a part always lies in the same place, a patch that is normal elsewhere is none here; on a texture it is as good as
any. Which of the two a category is, its references tell: the better a weight tells them from themselves with a made-up
defect, the better it suits them.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from o2n.data.defects import TRAINING_DEFECTS
from o2n.data.procedural import spoil_photographs
from o2n.features import over_scales
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.normals import encode, image_scores
from o2n.scales import usual_at


def choose_place_weight(
    foundation: Foundation, views: list[Picture], features: Tensor, origins: Sequence[int], weights: Sequence[float]
) -> float:
    """The weight with which S_N is farthest, in its own spreads, from good views to the same views with a defect each.

    Every view is compared with the views of the other references alone, as a query is with a bank that has not seen it.

    Args:
        views: of the references, uint8 (H, W, 3) of one size. features: float32 (N, S·L, G, D), theirs.
        origins: of each view the reference it shows; of two references at least.
        weights: to choose from, as in `Profile`; of equals the first.
    """
    spoilt_views = spoil_photographs(np.stack(views), foundation.profile.seed + 7, TRAINING_DEFECTS)[0]
    good = _similarity_beside_others(features, features, origins)
    bad = _similarity_beside_others(encode(foundation, list(spoilt_views)), features, origins)
    levels, references = len(foundation.profile.comparing.levels), len(set(origins))

    def separation(weight: float) -> float:
        normal, spoilt = (over_scales(distance_at(similarity, weight), levels) for similarity in (good, bad))
        usual = usual_at(normal, references)
        low, high = image_scores(normal - usual), image_scores(spoilt - usual)
        return float((high.mean() - low.mean()) / ((low.var() + high.var()) / 2).sqrt().clamp_min(1e-12))

    return max(weights, key=separation)


def similarity_at(queries: Tensor, bank: Tensor) -> Tensor:
    """How similar each patch is to the most similar one at every place of a bank's pictures.

    Args, of D-vectors of length 1: queries: float32 (B, L, G, D); bank: float32 (N, L, G, D).
    Returns: float32 (B, L, G, G).
    """
    found = torch.full((*queries.shape[:3], bank.shape[2]), -1.0)
    for picture in bank:
        found = torch.maximum(found, torch.einsum("blgd,lhd->blgh", queries, picture))
    return found


def distance_at(similarity: Tensor, weight: float) -> Tensor:
    """`MemoryBank.distance` with a place weight, of what `similarity_at` found: (B, L, G, G) -> float32 (B, L, G)."""
    side = math.isqrt(similarity.shape[-1])
    along = torch.arange(side, dtype=torch.float32) / side
    places = torch.cartesian_prod(along, along)
    return 1 - (similarity - weight * torch.cdist(places, places).square()).amax(dim=-1)


def _similarity_beside_others(queries: Tensor, features: Tensor, origins: Sequence[int]) -> Tensor:
    """`similarity_at` of each view to those of the other references: float32 (N, L, G, G)."""
    made_of = torch.tensor(origins)
    found = torch.empty((*queries.shape[:3], features.shape[2]))
    for reference in set(origins):
        own = made_of == reference
        found[own] = similarity_at(queries[own], features[~own])
    return found
