"""A published category -> any number of normal pictures that were never taken, for other methods to train on (the
paper's figure 4)."""

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice

import torch

from o2n import images
from o2n.category import VersionRef
from o2n.customize import adapter_loaded
from o2n.errors import CategoryError
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.normals import encode
from o2n.pool import draw_pool
from o2n.screening import acceptable
from o2n.store import CategoryStore
from o2n.version import checked_manifest, tensor_in

BATCH = 16
# After so many batches of which no picture passed, no further one is drawn.
PATIENCE = 3


def draw_normal(
    store: CategoryStore, ref: VersionRef, count: int, on_picture: Callable[[int], None] = lambda done: None
) -> tuple[list[Picture], list[Picture]]:
    """Draw as the pool of the memory bank is drawn, with other seeds, until `count` pictures have passed `acceptable`.

    Args: on_picture: called with how many have passed.
    Returns: the references, and `count` generated pictures, uint8 (R, R, 3); the same arguments give the same pictures.

    Raises:
        CategoryError: of `PATIENCE` batches nothing has passed.
        NotFoundError, IntegrityError, FoundationError, StoreError: a version that cannot be used.
    """
    found: list[Picture] = []
    with closing(normal_pictures(store, ref)) as passing:
        for picture in islice(passing, count):
            found.append(picture)
            on_picture(len(found))
    if len(found) < count:
        raise CategoryError(
            f"{ref.category} version {ref.version}: {len(found)} generated pictures pass for normal, and none of the "
            f"last {PATIENCE * BATCH}: ask for no more, or onboard it with more references or more training"
        )
    return list(tensor_in(store, store.manifest(ref), "references").numpy()), found


def normal_pictures(store: CategoryStore, ref: VersionRef) -> Generator[Picture]:
    """Pictures that pass `acceptable` beside the references and all before them, uint8 (R, R, 3), one by one, until of
    `PATIENCE` batches none does. Raises as `draw_normal`, but that too few pass."""
    foundation = load_foundation(store.manifest(ref).profile)
    manifest = checked_manifest(store, ref, foundation)
    profile = manifest.profile
    references = list(tensor_in(store, manifest, "references").numpy())
    shown = encode(foundation, references)
    known = shown[:0]
    weights = store.get_blob(manifest.blobs["adapter"])
    with adapter_loaded(foundation.diffusion, "o2n_export", weights) as adapter:
        batch = useless = 0
        while useless < PATIENCE:
            batch += 1
            # The pool itself has the seeds next to the profile's own.
            pool = profile.pool.model_copy(update={"pictures": len(references) + BATCH})
            drawing = profile.model_copy(update={"seed": profile.seed + 100 * batch, "pool": pool})
            redrawn = (batch - 1) * (BATCH - BATCH // 2)
            drawn = draw_pool(foundation.diffusion, adapter, references, manifest.object_word, drawing, redrawn)
            resized = [images.resize(picture, manifest.resolution) for picture in drawn]
            everything = torch.cat([known, encode(foundation, resized)])
            new = [place for place in acceptable(shown, everything) if place >= len(known)]
            yield from (resized[place - len(known)] for place in new)
            known = torch.cat([known, everything[new]])
            useless = 0 if new else useless + 1
