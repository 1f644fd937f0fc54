"""A version as it is stored: its manifest, held against the models that are loaded, and the tensors in its blobs."""

from collections.abc import Sequence

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from o2n.category import BlobName, Manifest, VersionRef
from o2n.errors import FoundationError, IntegrityError
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.normals import Scale, scales_of
from o2n.store import CategoryStore


def checked_manifest(store: CategoryStore, ref: VersionRef, foundation: Foundation) -> Manifest:
    """The manifest of `ref`, if it was made for this way of scoring and with these very weights.

    Raises:
        FoundationError: it was not; its adapter and features would silently mean something else.
    """
    manifest = store.manifest(ref)
    differing = [f"profile's {name}" for name in manifest.profile.differs_by(foundation.profile)]
    if manifest.foundation != foundation.identity:
        differing.append(f"models ({manifest.foundation}, not {foundation.identity})")
    if differing:
        raise FoundationError(
            f"{ref.category} version {ref.version} was made with profile {manifest.profile.name!r}, and what is loaded "
            f"here with {foundation.profile.name!r} differs by {', '.join(differing)}: "
            "use its own profile, or onboard it again"
        )
    return manifest


def tensor_in(store: CategoryStore, manifest: Manifest, blob: BlobName) -> Tensor:
    """The tensor in one of a version's blobs.

    Raises:
        IntegrityError, NotFoundError, StoreError: a blob that is broken, not there, or cannot be read.
    """
    return unpack(store.get_blob(manifest.blobs[blob]), _told(manifest, blob))


def scales_in(store: CategoryStore, manifest: Manifest) -> list[Scale]:
    """The version's scales of S_P, S_N and S_text; raises as `tensor_in`."""
    return unpack_scales(store.get_blob(manifest.blobs["scales"]), _told(manifest, "scales"))


def calibration_scales_in(store: CategoryStore, manifest: Manifest, count: int) -> list[Scale]:
    """`unpack_calibration_scales` of a version's blob; raises as `tensor_in`."""
    return unpack_calibration_scales(store.get_blob(manifest.blobs["scales"]), _told(manifest, "scales"), count)


def pack(tensor: Tensor, **more: Tensor) -> bytes:
    """A blob that holds a tensor, and others by their names, as safetensors."""
    return safetensors.torch.save({name: one.cpu().contiguous() for name, one in {"tensor": tensor, **more}.items()})


def unpack(data: bytes, what: str) -> Tensor:
    """The tensor of a blob made by `pack`; `what` names it in the error.

    Raises:
        IntegrityError: `data` is not such a blob.
    """
    return _unpack(data, what)["tensor"]


def unpack_scales(data: bytes, what: str) -> list[Scale]:
    """The scales of S_P, S_N and S_text in a version's blob of them; as `unpack`."""
    tensors = _unpack(data, what)
    return scales_of(tensors["tensor"], tensors.get("usual"))


def unpack_calibration_scales(data: bytes, what: str, count: int) -> list[Scale]:
    """The same for `count` normal pictures, the references first: each of them beside what is usual of the others, as a
    query stands beside what is usual of them all. A reference counted among those would score less than any query."""
    tensors = _unpack(data, what)
    usual = tensors.get("usual")
    if usual is not None and "usual_without" in tensors:
        without = tensors["usual_without"]
        usual = torch.cat([without, usual[:, None].expand(-1, count - without.shape[1], -1, -1)], dim=1)
    return scales_of(tensors["tensor"], usual)


def _unpack(data: bytes, what: str) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(data)
        tensors["tensor"]
        return tensors
    except Exception as error:  # safetensors raises its own kind, and struct and json errors
        raise IntegrityError(f"{what}: its bytes are not a tensor ({error}): onboard again") from error


def pack_pictures(pictures: Sequence[Picture], **more: Tensor) -> bytes:
    """A blob of any number of pictures, uint8 (H, W, 3) of one size, and other tensors by their names."""
    none = torch.zeros((0, 0, 0, 3), dtype=torch.uint8)
    return pack(torch.from_numpy(np.stack(pictures)) if pictures else none, **more)


def pack_pool(pool: Sequence[tuple[Picture, int | None]]) -> bytes:
    """A blob of pictures, and which reference each of them shows, if it shows one."""
    origins = torch.tensor([-1 if origin is None else origin for _, origin in pool], dtype=torch.int64)
    return pack_pictures([picture for picture, _ in pool], origins=origins)


def unpack_origins(data: bytes, what: str) -> list[int | None]:
    """Those of a blob made by `pack_pool`; as `unpack`."""
    return [None if origin < 0 else origin for origin in _unpack(data, what)["origins"].tolist()]


def unpack_pictures(data: bytes, what: str) -> list[Picture]:
    """The pictures of a blob made by `pack_pictures`; as `unpack`."""
    return list(unpack(data, what).numpy())


def _told(manifest: Manifest, blob: BlobName) -> str:
    return f"{manifest.category} version {manifest.version}, {blob}"
