"""The nearest normal picture: of the real ones that a version was made of, which shows the query's part best."""

import torch
from torch import Tensor

from o2n.bank import picture_distance
from o2n.category import VersionRef
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.loaded import Loaded
from o2n.store import CategoryStore
from o2n.version import checked_manifest, tensor_in

REFERENCE_BYTES = 256 << 20


class References:
    """The normal pictures of many categories, loaded on demand and kept under a budget; for any thread."""

    def __init__(self, foundation: Foundation, store: CategoryStore, budget: int = REFERENCE_BYTES) -> None:
        """Args: budget: of bytes for pictures and their features."""
        self._foundation, self._store = foundation, store
        self.loaded = Loaded(self._load, lambda known: sum(tensor.nbytes for tensor in known), budget)

    def nearest(self, features: Tensor, ref: VersionRef) -> Picture:
        """The normal picture that is nearest by `picture_distance`; never a generated one.

        Args: features: float32 (L, G, D) of the query.
        Returns: uint8 (R, R, 3).

        Raises:
            NotFoundError, IntegrityError, FoundationError, StoreError: a version that cannot be used.
        """
        pictures, normal = self.loaded.get(ref)
        return pictures[picture_distance(features[None].cpu(), normal)[0].argmin()].numpy()

    def _load(self, ref: VersionRef) -> tuple[Tensor, Tensor]:
        """The pictures, uint8 (N, R, R, 3), and their features, float32 (N, L, G, D)."""
        manifest = checked_manifest(self._store, ref, self._foundation)
        pictures, features = (tensor_in(self._store, manifest, blob) for blob in ("references", "features"))
        # A bank begins with the references that were onboarded and ends with the pictures that were fed back.
        fed_back = len(manifest.fed_back)
        onboarded = len(pictures) - fed_back
        return pictures, torch.cat([features[:onboarded], features[len(features) - fed_back :]])
