"""Three local maps of one query -> its score and its anomaly map (eq. 4-7). NumPy alone: the gateway runs it too."""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from o2n.category import VersionRef
from o2n.images import Picture
from o2n.profiles import BRANCHES, Profile

Local = NDArray[np.float32]  # (L, G): one branch's value at every level and patch; two encoders have two G

T = TypeVar("T", float, Local)


class Compared(NamedTuple):
    """The three comparisons of one picture, each float32 (L, G): on the scale of the version's good pictures in a
    calibrated profile. counterpart: as `Score`'s."""

    ref: VersionRef
    counterpart: Picture
    personal: Local
    normal: Local
    text: Local


@dataclass(frozen=True)
class Score:
    """What one picture was found to be.

    score, s_p, s_n, s_text: eq. (7), (4), (5), (6); higher is more anomalous. In a calibrated profile the branches are
    in deviations of the category's own good pictures, 0 being their mean.
    anomaly_map: float32 (g, g), the branches' maps fused like the scores, one value per patch; in a calibrated profile
    how far each stands out of the picture, their mean being 0.
    counterpart: uint8 (R, R, 3), what the picture should have looked like.
    """

    ref: VersionRef
    score: float
    s_p: float
    s_n: float
    s_text: float
    anomaly_map: NDArray[np.float32]
    counterpart: Picture

    def values(self) -> dict[str, float]:
        """The scores by their names."""
        return {"score": self.score, "s_p": self.s_p, "s_n": self.s_n, "s_text": self.s_text}


def image_score(local: Local) -> float:
    """The mean over the levels of the maximum over the grid, of float32 (L, G): the outer terms of eq. (4) to (6)."""
    return float(local.max(axis=-1).mean(axis=-1))


def fuse(s_p: T, s_n: T, s_text: T, alpha: float, beta: float) -> T:
    """A = S_P + α S_N + β S_text, eq. (7), of three scores, or of three maps, float32 (g, g): A is one more."""
    return s_p + alpha * s_n + beta * s_text


def fuse_with(profile: Profile, s_p: T, s_n: T, s_text: T) -> T:
    """Eq. (7) of those branches that the profile counts."""
    kept = [
        value if name in profile.branches else 0 * value
        for name, value in zip(BRANCHES, (s_p, s_n, s_text), strict=True)
    ]
    return fuse(kept[0], kept[1], kept[2], profile.alpha, profile.beta)


def fuse_maps(
    ref: VersionRef, counterpart: Picture, personal: Local, normal: Local, text: Local, profile: Profile
) -> Score:
    """The branches' local values of one query, each float32 (L, G), -> its score and its map, on the grid of S_P."""
    s_p, s_n, s_text = image_score(personal), image_score(normal), image_score(text)
    side = math.isqrt(personal.shape[-1])
    p, n, t = (_on_grid(local.mean(axis=0), side) for local in (personal, normal, text))
    fused = fuse_with(profile, p, n, t)
    if profile.fusion == "calibrated":  # every patch has seen the whole picture: a defect somewhere raises all of them
        fused = fused - fused.mean()
    return Score(
        ref=ref,
        score=fuse_with(profile, s_p, s_n, s_text),
        s_p=s_p,
        s_n=s_n,
        s_text=s_text,
        anomaly_map=fused,
        counterpart=counterpart,
    )


def _on_grid(values: Local, side: int) -> NDArray[np.float32]:
    """float32 (G,), row by row -> (side, side)."""
    own = math.isqrt(values.size)
    grid = values.reshape(own, own)
    return grid if own == side else upsample(grid, side, side)


def upsample(anomaly_map: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A map (g, g) -> float32 (height, width), bilinear: one value per pixel."""
    return np.asarray(Image.fromarray(anomaly_map).resize((width, height), Image.Resampling.BILINEAR))
