"""How each branch scores a category's own good pictures: the scale on which a calibrated profile fuses the branches.

The paper adds the branches as they are (eq. 7). Where one of them strays more among good pictures than another says of
bad ones, the sum is ruled by the worse; in deviations of the good pictures, each counts by what it can tell apart.
The same holds of places: an edge that no counterpart meets exactly looks odd on every good picture, and is not.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.normals import branch_values, image_scores, leave_one_out
from o2n.personalize import seeded_noise

# Deviations of few and related pictures come out too small by chance: this share of the mean is added to them.
LEAST_SPREAD = 0.1
# Good pictures that do not differ at all, such as flat ones, have no spread: not every speck is infinitely anomalous.
LEAST_DEVIATION = 1e-4

UNSCALED = torch.tensor([[0.0, 1.0]] * 3)


def branch_scales(
    foundation: Foundation,
    adapter: str,
    views: list[Picture],
    features: Tensor,
    origins: Sequence[int | None],
    kept: Tensor | None,
    place_weight: float,
    text: Tensor,
    object_word: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of S_P, S_N and S_text over the references and their moved views, and what S_P and S_N usually
    say at each place beside that: of all, and of all but each reference. S_text reads alike everywhere.

    S_N leaves one out: a view is compared with the bank without anything that was made of its own reference.

    Args:
        adapter: name of the category's adapter in the UNet.
        views: the references, uint8 (H, W, 3) of one size, then their moved views, as they are in the bank.
        features, origins, kept, place_weight: the bank, which begins with the views; as for `leave_one_out`.
        text: float32 (2, E), the category's text features.

    Returns: float32 (3, 2), a row of mean and deviation for each of S_P, S_N, S_text; float32 (2, L, G), `usual_at` of
        S_P and S_N, which is taken off before these; float32 (2, R, L, G), the same without each of the R references,
        to calibrate on that one.
    """
    profile, count = foundation.profile, len(views)
    noise = seeded_noise(profile.seed + 4, (count, *foundation.diffusion.latent_shape))
    distances = leave_one_out(features, origins, count, kept, place_weight)
    values = branch_values(foundation, adapter, views, noise, features[:count], distances, text, object_word)
    made_of = torch.tensor(origins[:count])
    references = list(dict.fromkeys(origins[:count]))
    usual = torch.stack([usual_at(local, len(references)) for local in values[:2]])
    without = torch.stack(
        [
            torch.stack([usual_at(local[made_of != one], len(references) - 1) for one in references])
            for local in values[:2]
        ]
    )
    rows = []
    for local, place in zip(values, [*usual, 0.0], strict=True):
        scores = image_scores(local - place)
        spread = scores.std() + LEAST_SPREAD * image_scores(local).mean()
        rows.append(torch.stack([scores.mean(), spread.clamp_min(LEAST_DEVIATION)]))
    return torch.stack(rows), usual, without


def usual_at(local: Tensor, references: int) -> Tensor:
    """What a branch says at each place of a good picture, less its mean over all places.

    Drawn towards 0 as far as so few references cannot tell it from chance (James and Stein, 1961, positive part): on a
    texture, of which every picture shows another piece, nothing is left of it, nor of a single view.

    Args: local: float32 (N, L, G) of N views of that many references. Returns: float32 (L, G), at each level of mean 0.
    """
    if len(local) == 1:
        return torch.zeros_like(local[0])
    at_place = local.mean(dim=0)
    usual = at_place - at_place.mean(dim=-1, keepdim=True)
    chance = local.var(dim=0).mean(dim=-1, keepdim=True) / references
    found = usual.var(dim=-1, keepdim=True)
    return usual * (1 - chance / found.clamp_min(1e-20)).clamp(0, 1)
