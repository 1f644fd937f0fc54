"""An inspector's verdict on a picture: normal ones make a new version at once, anomalous ones are kept for evaluation.

Nothing is trained. Undoing it is a rollback.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from o2n.category import Feedback, VersionRef
from o2n.images import Picture
from o2n.store import CategoryStore

if TYPE_CHECKING:  # it imports torch, which takes seconds that keeping an anomalous picture need not
    from o2n.foundation import Foundation

__all__ = ["Feedback", "accept_normal", "keep_anomalous"]


def accept_normal(
    store: CategoryStore,
    foundation: "Foundation",
    ref: VersionRef,
    picture: Picture,
    features: NDArray[np.float32],
    s_p: float,
    s_text: float,
    by: str,
    note: str | None = None,
) -> VersionRef:
    """A new version that has a picture more in its bank and in its calibration, and serves.

    Args:
        ref: the version whose answer was judged.
        picture: uint8 (H, W, 3), of any size.
        features: float32 (L, G, D), the picture's, at the model's resolution.
        s_p, s_text: what that version scored it.

    Returns: the version that serves now; the one that served before where the picture is in its bank already.

    Raises:
        ConflictError: the category was onboarded anew since `ref`: score the picture again.
        CategoryError, NotFoundError, IntegrityError, StoreError: a version or store that cannot be used.
        FoundationError: its models are not these.
    """
    raise NotImplementedError


def keep_anomalous(store: CategoryStore, ref: VersionRef, picture: Picture, by: str, note: str | None = None) -> None:
    """Keep a picture and the verdict on it for evaluation. Nothing else changes.

    Args: ref: the version whose answer was judged. picture: uint8 (H, W, 3); kept as it is given.

    Raises:
        CategoryError, NotFoundError, IntegrityError, StoreError: a version or store that cannot be used.
    """
    raise NotImplementedError
