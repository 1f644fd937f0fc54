"""Comparisons that one version made -> the same on the scales of another: what fuses otherwise is not computed anew."""

from o2n.fusion import Compared
from o2n.normals import Scale, scales_of
from o2n.scales import UNSCALED

AS_THEY_ARE = scales_of(UNSCALED, None)


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
