"""An inspector's verdict on a picture: normal ones make a new version at once, anomalous ones are kept for evaluation.

Nothing is trained, and undoing it is a rollback. Onboarding the category from other pictures begins without what was
fed back.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from o2n import images
from o2n.calibration import Calibration, NormalPicture
from o2n.category import BlobName, BlobRef, Feedback, Manifest, Verdict, VersionRef
from o2n.errors import ConflictError, IntegrityError, RequestError, cause_of
from o2n.images import Picture
from o2n.store import SWAP_ATTEMPTS, CategoryStore, pause

if TYPE_CHECKING:  # it imports torch, which takes seconds that keeping an anomalous picture need not
    from o2n.foundation import Foundation

# Versions that share these give a picture the same S_P and S_text.
_SCORED_WITH: tuple[BlobName, ...] = ("adapter", "text_features", "scales")


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
    """Let a version serve that has one picture more in its bank and its calibration than the one that serves now.

    Every calibration score is brought up to date, because a bank that grows comes closer to all normal pictures: scores
    left as they were would be too high, and alarms rarer than promised. Of feedbacks at the same time none is lost.

    Args:
        ref: the version whose answer was judged.
        picture: uint8 (H, W, 3), of any size.
        features: float32 (S·L, G, D), the picture's at the version's resolution.
        s_p, s_text: what `ref` scored it.
        by: who said so, 1-128 characters. note: up to 1024.

    Returns: the version that serves now; where the picture was in its bank already, the one that did before.

    Raises:
        ConflictError: the category was onboarded anew since `ref`: score the picture again.
        CategoryError, NotFoundError, IntegrityError, StoreError: a version or a store that cannot be used.
        FoundationError: the version was made with other models.
        RequestError: `by` or `note` that is too long, or nobody.
    """
    from o2n.version import checked_manifest

    judged = checked_manifest(store, ref, foundation)
    query = images.resize(picture, judged.resolution)
    feedback = _verdict("normal", query, ref, by, note)
    for attempt in range(SWAP_ATTEMPTS):
        base = checked_manifest(store, store.current(ref.category), foundation)
        if any(base.blobs[blob] != judged.blobs[blob] for blob in _SCORED_WITH):
            raise ConflictError(
                f"category {ref.category} was onboarded anew since version {ref.version}: score the picture again, "
                "then judge it by that answer"
            )
        calibration = store.calibration(base.ref)
        if any(known.picture == feedback.picture and known.origin != "extra" for known in calibration.pictures):
            return base.ref
        blobs = _enlarged(store, base, calibration, query, features, s_p, s_text)
        manifest = base.model_copy(
            update={
                "blobs": {**base.blobs, **blobs},
                "parent": base.version,
                "onboarded": base.onboarded or base.version,
                "feedback": [*base.feedback, feedback],
                "created": feedback.at,
            }
        )
        try:
            return store.publish(manifest, after=base.version)
        except ConflictError:  # another version serves by now: add the picture to that one
            pause(attempt)
    raise ConflictError(f"category {ref.category} in store {store.url} is changed by others all the time: try later")


def keep_anomalous(store: CategoryStore, ref: VersionRef, picture: Picture, by: str, note: str | None = None) -> None:
    """Keep a picture and the verdict on it for evaluation. Nothing else changes.

    Args: as `accept_normal`; the picture is kept as it is given.

    Raises:
        CategoryError, NotFoundError, IntegrityError, StoreError: a version or a store that cannot be used.
        RequestError: as `accept_normal`.
    """
    query = images.resize(picture, store.manifest(ref).resolution)
    feedback = _verdict("anomalous", query, ref, by, note)
    blob = store.put_blob(images.encode_png(picture))
    store.keep_feedback(ref.category, feedback.model_copy(update={"blob": blob}))


def _verdict(verdict: Verdict, query: Picture, ref: VersionRef, by: str, note: str | None) -> Feedback:
    try:
        return Feedback(
            verdict=verdict,
            by=by,
            note=note,
            at=datetime.now(UTC),
            picture=images.digest(query),
            version=ref.version,
        )
    except ValidationError as error:
        raise RequestError(f"feedback on {ref.category}: {cause_of(error)}") from None


def _enlarged(
    store: CategoryStore,
    base: Manifest,
    calibration: Calibration,
    query: Picture,
    features: NDArray[np.float32],
    s_p: float,
    s_text: float,
) -> dict[str, BlobRef]:
    """The blobs of a version that differ once a picture is in its bank."""
    import torch

    from o2n.bank import MemoryBank
    from o2n.features import over_scales
    from o2n.normals import normal_picture, scaled_scores
    from o2n.version import calibration_scales_in, pack, tensor_in

    new = torch.from_numpy(np.array(features))[None]
    stored: tuple[BlobName, ...] = ("references", "features", "normals", "distances")
    references, bank, normals, distances = (tensor_in(store, base, blob) for blob in stored)
    if new.shape[1:] != bank.shape[1:] or len(calibration.pictures) != len(distances):
        raise IntegrityError(
            f"{base.category} version {base.version} does not fit together: onboard the category again"
        )

    pictures = list(calibration.pictures)
    digest = images.digest(query)
    at = next((row for row, known in enumerate(pictures) if known.picture == digest), None)
    kept = tensor_in(store, base, "kept") if "kept" in base.blobs else None
    weight = base.place_weight
    distances = torch.minimum(distances, MemoryBank(new, place_weight=weight).distance(normals))
    own = MemoryBank(bank, kept, weight).distance(new)
    if at is None:
        normals, distances = torch.cat([normals, new]), torch.cat([distances, own])
        pictures.append(NormalPicture(picture=digest, origin="feedback", score=0, s_p=s_p, s_n=0, s_text=s_text))
    else:  # an extra normal picture so far: it is beside the bank without itself as it was
        distances[at] = own[0]
        pictures[at] = pictures[at].model_copy(update={"origin": "feedback"})
    local = over_scales(distances, len(base.profile.comparing.levels))
    s_n_scores = scaled_scores(local, calibration_scales_in(store, base, len(pictures))[1])
    made = Calibration.of(
        normal_picture(base.profile, known.picture, known.origin, known.s_p, s_n, known.s_text)
        for known, s_n in zip(pictures, s_n_scores, strict=True)
    )
    grown: dict[str, BlobRef] = {}
    if kept is not None:  # a picture that somebody has vouched for is kept whole, over and above the budget
        its_patches = len(bank) * bank.shape[2] + torch.arange(bank.shape[2])
        grown["kept"] = store.put_blob(pack(torch.cat([kept, its_patches.expand(len(kept), -1)], dim=1)))
    return {
        **grown,
        "references": store.put_blob(pack(torch.cat([references, torch.from_numpy(query.copy())[None]]))),
        "features": store.put_blob(pack(torch.cat([bank, new]))),
        "normals": store.put_blob(pack(normals)),
        "distances": store.put_blob(pack(distances)),
        "calibration": store.put_blob(made.model_dump_json().encode()),
    }
