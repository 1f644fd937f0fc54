"""Generated pictures -> those that may enter the memory bank: a bad one in it would hide that very defect for ever."""

from collections.abc import Generator
from itertools import count

import torch
from torch import Tensor

from o2n import images
from o2n.bank import MemoryBank, picture_distance
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.normals import encode, image_scores, leave_one_out
from o2n.pool import draw_pool, pool_origins

# A generated picture may be so many times as far from the references as the oddest of these is from the others. Of the
# embedded models' pictures that are drawn from nothing, none passes; of references that are redrawn, about half do.
SLACK = 1.5
# Below this mean distance of patches a picture shows nothing that another does not show too: JPEG of a quality of 80,
# or half the size, moves photographs by about as much at most.
COPY_DISTANCE = 1e-3
# So many are drawn at a time, and after so many times of which none has passed no more are.
BATCH, PATIENCE = 16, 3


def passing(
    foundation: Foundation,
    adapter: str,
    references: list[Picture],
    object_word: str,
    first: int,
) -> Generator[tuple[Picture, int | None]]:
    """Generated pictures that pass `acceptable` beside the references and all before them, one by one, until of
    `PATIENCE` batches none does.

    Args:
        adapter: name of the category's adapter in the UNet. references: uint8 (H, H, 3).
        first: the batch to begin with. Batch 0 is the pool of the profile's own number and seed, all others are of
            `BATCH` pictures and other seeds.

    Yields: uint8 (R, R, 3), as it was drawn, and the place of the reference that it shows, if it shows one.
    """
    profile, shown = foundation.profile, encode(foundation, references)
    known, useless = shown[:0], 0
    for batch in count(first):
        if useless == PATIENCE:
            return
        drawing, redrawn = profile, 0
        if batch:
            pool = profile.pool.model_copy(update={"pictures": len(references) + BATCH})
            drawing = profile.model_copy(update={"seed": profile.seed + 100 * batch, "pool": pool})
            redrawn = (batch - 1) * (BATCH - BATCH // 2)
        drawn = draw_pool(foundation.diffusion, adapter, references, object_word, drawing, redrawn)
        origins = pool_origins(len(references), drawing, redrawn)
        everything = torch.cat([known, encode(foundation, [images.resize(one, len(references[0])) for one in drawn])])
        new = [place for place in acceptable(shown, everything) if place >= len(known)]
        yield from ((drawn[place - len(known)], origins[place - len(known)]) for place in new)
        known = torch.cat([known, everything[new]])
        useless = 0 if new else useless + 1


def acceptable(references: Tensor, generated: Tensor) -> list[int]:
    """Which generated pictures are good enough for the bank, and none of them twice.

    A picture is measured by S_N of eq. (5), places aside, beside the references alone: the worst of its patches
    counts, so that one bad corner is enough to refuse it.

    Args: features, float32 (N, L, G, D): of two references or more, and of M generated pictures.
    Returns: places in `generated`, ascending; none, where none will do: the references are in the bank anyhow.
    """
    count = len(references)
    among = image_scores(leave_one_out(references, range(count), count))
    scores = image_scores(MemoryBank(references).distance(generated))
    found: list[int] = []
    known = references
    for row in torch.nonzero(scores <= SLACK * among.max())[:, 0].tolist():
        if picture_distance(generated[row : row + 1], known).min() > COPY_DISTANCE:
            found.append(row)
            known = torch.cat([known, generated[row : row + 1]])
    return found


def look_alike(references: Tensor) -> list[tuple[int, int]]:
    """Pairs of references that show the same at every place, such as one photograph saved twice.

    Args: features, float32 (N, L, G, D). Returns: their places, ascending; of more than two alike each with the first.
    """
    found = []
    for row in range(1, len(references)):
        near = (1 - (references[:row] * references[row]).sum(dim=-1)).mean(dim=(-2, -1)) < COPY_DISTANCE
        if near.any():
            found.append((int(near.nonzero()[0, 0]), row))
    return found
