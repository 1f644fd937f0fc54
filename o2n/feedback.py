"""An inspector's verdict on a picture: normal ones make a new version at once, anomalous ones are kept for evaluation,
and what is among the normal ones by mistake is withdrawn.

Nothing is trained. A rollback undoes what came last, a withdrawal one picture alone. Onboarding the category from other
pictures begins without what was fed back.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from o2n import images
from o2n.calibration import Calibration, NormalPicture, Origin
from o2n.category import BlobName, BlobRef, Feedback, Manifest, Verdict, VersionRef
from o2n.errors import ConflictError, IntegrityError, NotFoundError, RequestError, cause_of
from o2n.images import Picture
from o2n.store import SWAP_ATTEMPTS, CategoryStore, pause

if TYPE_CHECKING:  # it imports torch, which takes seconds that keeping an anomalous picture need not
    from torch import Tensor

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
    import torch

    from o2n.version import checked_manifest

    judged = checked_manifest(store, ref, foundation)
    query = images.resize(picture, judged.resolution)
    feedback = _verdict("normal", query, ref, by, note)
    new = _Fed(torch.from_numpy(query.copy()), torch.from_numpy(np.array(features)), feedback.picture, s_p, s_text)

    def with_it(serving: Manifest) -> dict[BlobName, BlobRef] | None:
        checked_manifest(store, serving.ref, foundation)
        if any(serving.blobs[blob] != judged.blobs[blob] for blob in _SCORED_WITH):
            raise ConflictError(
                f"category {ref.category} was onboarded anew since version {ref.version}: score the picture again, "
                "then judge it by that answer"
            )
        normals = _Normals.of(store, serving)
        if any(known.picture == new.digest and known.origin != "extra" for known in normals.pictures):
            return None
        return normals.with_pictures([new], serving.place_weight).kept_in(store, serving)

    return _changed(store, ref.category, feedback, with_it)


def withdraw_normal(
    store: CategoryStore, ref: VersionRef, picture: Picture, by: str, note: str | None = None
) -> VersionRef:
    """Let a version serve that has one picture less in its bank and its calibration: made of what onboarding made and
    of what else was fed back since, without any models.

    One of onboarding's further normal pictures, which no bank has, leaves the calibration.

    Args: as `accept_normal`; ref: the version that serves.

    Returns: the version that serves now; where the picture was withdrawn before, the one that did before.

    Raises:
        RequestError: the picture is none of the normal ones, or a reference; or as `accept_normal`.
        NotFoundError: the version that onboarding made is not there any more; or as `accept_normal`.
        ConflictError: the category was onboarded anew since `ref`.
        CategoryError, IntegrityError, StoreError: as `accept_normal`.
    """
    judged = store.manifest(ref)
    query = images.resize(picture, judged.resolution)
    feedback = _verdict("withdrawn", query, ref, by, note)

    def without_it(serving: Manifest) -> dict[BlobName, BlobRef] | None:
        if serving.resolution != judged.resolution:
            raise ConflictError(f"category {ref.category} was onboarded anew since version {ref.version}: try again")
        last = {said.picture: said.verdict for said in serving.feedback}
        if last.get(feedback.picture) == "withdrawn":
            return None
        now = _Normals.of(store, serving)
        origin = next((known.origin for known in now.pictures if known.picture == feedback.picture), None)
        if origin in (None, "reference"):
            what = "is a reference of" if origin else "is none of the normal pictures of"
            raise RequestError(
                f"feedback on {ref.category}: a picture with these pixels {what} version {serving.version}: "
                f"{'onboard the category without it' if origin else 'there is nothing to withdraw'}"
            )
        withdrawn = {feedback.picture, *(one for one, verdict in last.items() if verdict == "withdrawn")}
        left = [fed for fed in now.fed([said.picture for said in serving.fed_back]) if fed.digest not in withdrawn]
        begun = _Normals.of(store, _onboarded(store, serving)).without(withdrawn)
        return begun.with_pictures(left, serving.place_weight).kept_in(store, serving)

    return _changed(store, ref.category, feedback, without_it)


def keep_anomalous(
    store: CategoryStore, ref: VersionRef, picture: Picture, by: str, note: str | None = None
) -> Origin | None:
    """Keep a picture and the verdict on it for evaluation. Nothing else changes.

    Args: as `accept_normal`; the picture is kept as it is given.
    Returns: as what it is among the normal pictures of that version; None: it is none of them.

    Raises:
        CategoryError, NotFoundError, IntegrityError, StoreError: a version or a store that cannot be used.
        RequestError: as `accept_normal`.
    """
    query, known = images.resize(picture, store.manifest(ref).resolution), store.calibration(ref).pictures
    feedback = _verdict("anomalous", query, ref, by, note)
    blob = store.put_blob(images.encode_png(picture))
    store.keep_feedback(ref.category, feedback.model_copy(update={"blob": blob}))
    return next((one.origin for one in known if one.picture == feedback.picture), None)


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


def _changed(
    store: CategoryStore,
    category: str,
    feedback: Feedback,
    change: Callable[[Manifest], dict[BlobName, BlobRef] | None],
) -> VersionRef:
    """Publish what `change` makes of the version that serves: the blobs that differ then, or None if it stays.

    Of two at once the later is made of what the earlier has published.
    """
    for attempt in range(SWAP_ATTEMPTS):
        serving = store.manifest(store.current(category))
        blobs = change(serving)
        if blobs is None:
            return serving.ref
        manifest = serving.model_copy(
            update={
                "blobs": {**serving.blobs, **blobs},
                "parent": serving.version,
                "onboarded": serving.onboarded or serving.version,
                "feedback": [*serving.feedback, feedback],
                "created": feedback.at,
            }
        )
        try:
            return store.publish(manifest, after=serving.version)
        except ConflictError:  # another version serves by now: change that one
            pause(attempt)
    raise ConflictError(f"category {category} in store {store.url} is changed by others all the time: try later")


def _onboarded(store: CategoryStore, manifest: Manifest) -> Manifest:
    """The version that onboarding made of which, by feedback, this one came."""
    while manifest.feedback:
        before = manifest.onboarded or manifest.parent or "unknown"  # there was feedback before there was `onboarded`
        try:
            manifest = store.manifest(VersionRef(manifest.category, before))
        except NotFoundError:
            raise NotFoundError(
                f"version {before} of {manifest.category}, to which pictures were fed back, is not there any more: "
                "roll back to a version without this picture, or onboard the category from other pictures"
            ) from None
    return manifest


@dataclass(frozen=True)
class _Fed:
    """A picture that is fed back: uint8 (R, R, 3), its features, float32 (S·L, G, D), and what it was scored."""

    picture: "Tensor"
    features: "Tensor"
    digest: str
    s_p: float
    s_text: float


@dataclass(frozen=True)
class _Normals:
    """What of a version grows as pictures are fed back: its blobs of these names; pictures: of its calibration."""

    references: "Tensor"
    features: "Tensor"
    kept: "Tensor | None"
    normals: "Tensor"
    distances: "Tensor"
    pictures: tuple[NormalPicture, ...]

    @classmethod
    def of(cls, store: CategoryStore, manifest: Manifest) -> "_Normals":
        """Raises: IntegrityError: its parts do not belong together; or as `accept_normal`."""
        from o2n.version import tensor_in

        stored: tuple[BlobName, ...] = ("references", "features", "normals", "distances")
        references, features, normals, distances = (tensor_in(store, manifest, blob) for blob in stored)
        kept = tensor_in(store, manifest, "kept") if "kept" in manifest.blobs else None
        pictures = store.calibration(manifest.ref).pictures
        if len(pictures) != len(distances) or features.shape[1:] != normals.shape[1:]:
            raise IntegrityError(
                f"{manifest.category} version {manifest.version} does not fit together: onboard the category again"
            )
        return cls(references, features, kept, normals, distances, pictures)

    def fed(self, digests: list[str]) -> list[_Fed]:
        """The pictures of these digests, which were fed back in this order: the last of references and bank."""
        scored = {known.picture: known for known in self.pictures}
        last = slice(len(self.references) - len(digests), None), slice(len(self.features) - len(digests), None)
        return [
            _Fed(picture, features, digest, scored[digest].s_p, scored[digest].s_text)
            for picture, features, digest in zip(self.references[last[0]], self.features[last[1]], digests, strict=True)
        ]

    def without(self, digests: set[str]) -> "_Normals":
        """Without these pictures in the calibration, where they are further normal ones, which no bank has."""
        rows = [
            row for row, known in enumerate(self.pictures) if known.origin != "extra" or known.picture not in digests
        ]
        return replace(
            self,
            normals=self.normals[rows],
            distances=self.distances[rows],
            pictures=tuple(self.pictures[row] for row in rows),
        )

    def with_pictures(self, new: list[_Fed], place_weight: float) -> "_Normals":
        """With more pictures, and all distances as they are beside the bank that has them."""
        import torch

        from o2n.bank import MemoryBank

        if not new:
            return self
        features = torch.stack([one.features for one in new])
        if features.shape[1:] != self.features.shape[1:]:
            raise IntegrityError(
                f"features of shape {tuple(features.shape[1:])} are none of this version's: score the picture again"
            )
        count = len(self.normals)
        known = torch.cat([self.normals, features])
        to_each = torch.stack([MemoryBank(one[None], place_weight=place_weight).distance(known) for one in features])
        to_each[range(len(new)), range(count, len(known))] = torch.inf  # none is compared with itself
        to_new = to_each.amin(dim=0)
        distances = torch.minimum(self.distances, to_new[:count])
        own = torch.minimum(MemoryBank(self.features, self.kept, place_weight).distance(features), to_new[count:])

        pictures, more = list(self.pictures), []
        rows = {one.picture: row for row, one in enumerate(pictures)}
        for index, one in enumerate(new):
            if (at := rows.get(one.digest)) is not None:  # a further normal picture so far
                distances[at] = own[index]
                pictures[at] = pictures[at].model_copy(update={"origin": "feedback"})
            else:
                more.append(index)
                pictures.append(
                    NormalPicture(picture=one.digest, origin="feedback", score=0, s_p=one.s_p, s_n=0, s_text=one.s_text)
                )
        kept = self.kept
        if kept is not None:  # a picture that somebody has vouched for is kept whole, over and above the budget
            patches = self.features.shape[2]
            of_new = len(self.features) * patches + torch.arange(len(new) * patches)
            kept = torch.cat([kept, of_new.expand(len(kept), -1)], dim=1)
        return _Normals(
            torch.cat([self.references, torch.stack([one.picture for one in new])]),
            torch.cat([self.features, features]),
            kept,
            torch.cat([self.normals, features[more]]),
            torch.cat([distances, own[more]]),
            tuple(pictures),
        )

    def kept_in(self, store: CategoryStore, manifest: Manifest) -> dict[BlobName, BlobRef]:
        """Its blobs, with the calibration on the scales of `manifest`."""
        from o2n.features import over_scales, smoothed
        from o2n.normals import normal_picture, scaled_scores
        from o2n.version import calibration_scales_in, pack

        profile = manifest.profile
        local = smoothed(over_scales(self.distances, len(profile.comparing.levels)), profile.smoothing)
        s_n_scores = scaled_scores(local, calibration_scales_in(store, manifest, len(self.pictures))[1])
        calibration = Calibration.of(
            normal_picture(profile, known.picture, known.origin, known.s_p, s_n, known.s_text)
            for known, s_n in zip(self.pictures, s_n_scores, strict=True)
        )
        tensors: dict[BlobName, Tensor | None] = {
            "references": self.references,
            "features": self.features,
            "kept": self.kept,
            "normals": self.normals,
            "distances": self.distances,
        }
        return {
            **{name: store.put_blob(pack(tensor)) for name, tensor in tensors.items() if tensor is not None},
            "calibration": store.put_blob(calibration.model_dump_json().encode()),
        }
