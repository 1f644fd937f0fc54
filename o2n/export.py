"""A published category -> any number of normal pictures that were never taken, for other methods to train on (the
paper's figure 4)."""

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice

from o2n import images
from o2n.category import VersionRef
from o2n.customize import adapter_loaded
from o2n.errors import CategoryError
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.screening import BATCH, PATIENCE, passing
from o2n.store import CategoryStore
from o2n.version import checked_manifest, tensor_in


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
    with closing(normal_pictures(store, ref)) as pictures:
        for picture in islice(pictures, count):
            found.append(picture)
            on_picture(len(found))
    if len(found) < count:
        raise CategoryError(
            f"{ref.category} version {ref.version}: {len(found)} generated pictures pass for normal, and none of the "
            f"last {PATIENCE * BATCH}: ask for no more, or onboard it with more references or more training"
        )
    return list(tensor_in(store, store.manifest(ref), "references").numpy()), found


def normal_pictures(store: CategoryStore, ref: VersionRef) -> Generator[Picture]:
    """What passes of batch 1 on (see `passing`), uint8 (R, R, 3) at the version's resolution. Raises as `draw_normal`,
    but that too few pass."""
    foundation = load_foundation(store.manifest(ref).profile)
    manifest = checked_manifest(store, ref, foundation)
    side, word = manifest.resolution, manifest.object_word
    references = list(tensor_in(store, manifest, "references").numpy())
    weights = store.get_blob(manifest.blobs["adapter"])
    with adapter_loaded(foundation.diffusion, "o2n_export", weights) as adapter:
        for picture, _ in passing(foundation, adapter, references, word, first=1):
            yield images.resize(picture, side)
