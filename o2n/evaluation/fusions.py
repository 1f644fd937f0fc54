"""Comparisons that one version made -> the same on the scales of another: what fuses otherwise is not computed anew."""

from o2n.category import VersionRef
from o2n.fusion import Compared
from o2n.normals import Scale, scales_of
from o2n.scales import UNSCALED
from o2n.store import CategoryStore
from o2n.version import scale_in

AS_THEY_ARE = scales_of(UNSCALED, None)


def scales_in(store: CategoryStore, ref: VersionRef) -> list[Scale]:
    """A version's scales of S_P, S_N and S_text; raises as `scale_in`."""
    manifest = store.manifest(ref)
    return [scale_in(store, manifest, row) for row in range(len(UNSCALED))]


def on_scales(compared: Compared, own: list[Scale], other: list[Scale]) -> Compared:
    """What the branches said on their `own` scales, on the `other` ones, each of S_P, S_N and S_text."""
    ref, counterpart, *values = compared
    return Compared(
        ref,
        counterpart,
        *(
            (local * of.deviation.numpy() + (of.mean - to.mean).numpy()) / to.deviation.numpy()
            for local, of, to in zip(values, own, other, strict=True)
        ),
    )
