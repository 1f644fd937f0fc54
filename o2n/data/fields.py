"""What procedural pictures are made of: coordinates, shapes, noise and paint.

A field is float32 (N, S, S), one value per pixel of N pictures. Coordinates run from -1 to 1 across a picture, shapes
are signed distances (negative inside; iquilezles.org/articles/distfunctions2d), colours are float32 RGB in [0, 1].
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.floating]
Colour = NDArray[np.floating]  # (3,), or one per pixel (N, S, S, 3)


@dataclass
class Drawing:
    """Pictures being painted.

    colour: float32 (N, S, S, 3). ground: the same, what lies beneath all parts. parts: int16 (N, S, S), the number of
    the part that a pixel belongs to, 0 for the ground.
    """

    colour: Colour
    ground: Colour
    parts: NDArray[np.int16]

    def paint(self, distance: Field, colour: Colour, part: int | NDArray[np.int16] | None = None) -> None:
        """Lay `colour` over everything inside the shape `distance`; with `part`, it is a part of its own."""
        self.colour = mix(self.colour, colour, cover(distance))
        if part is not None:
            self.parts = np.where(distance < 0, part, self.parts).astype(np.int16)

    def emboss(self, distance: Field, depth: float) -> None:
        """Darken (depth > 0) or brighten everything inside the shape, as relief does."""
        self.colour = self.colour * (1 - depth * cover(distance))[..., None]


def drawing(ground: Colour) -> Drawing:
    """An empty picture of the ground alone."""
    return Drawing(ground.copy(), ground, np.zeros(ground.shape[:3], np.int16))


def vary(rng: Generator, count: int, low: float, high: float) -> Field:
    """One number for each of `count` pictures, float32 (count, 1, 1)."""
    return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)


def grid(size: int) -> tuple[Field, Field]:
    """x and y of every pixel's centre, each float32 (size, size)."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def turn(x: Field, y: Field, angle: Field | float) -> tuple[Field, Field]:
    """Coordinates turned by `angle` radians."""
    c, s = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    return x * c - y * s, x * s + y * c


def noise(rng: Generator, count: int, size: int, across: int, down: int | None = None) -> Field:
    """Smooth random fields of unit variance or so: `across` times `down` random values, cubically interpolated."""
    down = across if down is None else down
    values = rng.standard_normal((count, down + 3, across + 3), dtype=np.float32)
    return _cubic(size, down) @ values @ _cubic(size, across).T


def fbm(rng: Generator, count: int, size: int, cells: int, octaves: int = 3) -> Field:
    """Noise at `cells` and finer, each octave half as strong; at most `size` cells."""
    total = np.zeros((count, size, size), np.float32)
    for octave in range(octaves):
        total += noise(rng, count, size, min(cells << octave, size)) * 0.5**octave
    return total


def bilinear(table: NDArray[np.float32], x: Field, y: Field) -> Field:
    """Values of a periodic table (C, C) at coordinates that run from 0 to C."""
    side = len(table)
    i, j = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    v, u = y - i, x - j
    i0, j0, i1, j1 = i % side, j % side, (i + 1) % side, (j + 1) % side
    top = table[i0, j0] * (1 - u) + table[i0, j1] * u
    return top * (1 - v) + (table[i1, j0] * (1 - u) + table[i1, j1] * u) * v


def chance(i: NDArray[np.int32], j: NDArray[np.int32], salt: int) -> Field:
    """A number in [0, 1) for every pair of whole numbers, always the same (a small integer hash)."""
    h = i.astype(np.uint32) * np.uint32(374761393) + j.astype(np.uint32) * np.uint32(668265263)
    h = (h + np.uint32(salt % (1 << 31))) * np.uint32(2246822519)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(3266489917)
    return ((h ^ (h >> np.uint32(13))) & np.uint32(0xFFFFFF)).astype(np.float32) / np.float32(1 << 24)


def cells(x: Field, period: float) -> tuple[NDArray[np.int32], Field]:
    """Which period a coordinate falls into, and where in it, in [-0.5, 0.5)."""
    scaled = x / np.float32(period)
    index = np.floor(scaled)
    return index.astype(np.int32), scaled - index - np.float32(0.5)


def worley(x: Field, y: Field, period: float, salt: int) -> tuple[Field, Field, Field]:
    """Distance to the nearest and the second nearest of scattered points, in periods, and the nearest one's number in
    [0, 1) (Worley, 1996)."""
    i, u = cells(x, period)
    j, v = cells(y, period)
    first = np.full(x.shape, 9.0, np.float32)
    second = first.copy()
    owner = np.zeros(x.shape, np.float32)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            px = di + (chance(i + di, j + dj, salt) - np.float32(0.5)) * np.float32(0.9)
            py = dj + (chance(i + di, j + dj, salt + 1) - np.float32(0.5)) * np.float32(0.9)
            d = (u - px) ** 2 + (v - py) ** 2
            nearer = d < first
            second = np.where(nearer, first, np.minimum(second, d))
            owner = np.where(nearer, chance(i + di, j + dj, salt + 2), owner)
            first = np.where(nearer, d, first)
    return np.sqrt(first), np.sqrt(second), owner


def disc(x: Field, y: Field, radius: Field | float, cx: Field | float = 0.0, cy: Field | float = 0.0) -> Field:
    return np.hypot(x - cx, y - cy) - radius


def ring(x: Field, y: Field, radius: float, width: float) -> Field:
    return np.abs(np.hypot(x, y) - radius) - width / 2


def box(x: Field, y: Field, width: Field | float, height: Field | float, corner: float = 0.0) -> Field:
    """A rectangle with half sides `width` and `height` around the origin."""
    dx, dy = np.abs(x) - width + corner, np.abs(y) - height + corner
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - corner


def polygon(x: Field, y: Field, radius: float, sides: int) -> Field:
    """A regular polygon whose inner circle has `radius`."""
    sector = np.float32(2 * np.pi / sides)
    angle = np.arctan2(y, x)
    folded = angle - sector * np.round(angle / sector)
    return np.hypot(x, y) * np.cos(folded) - radius


def segment(
    x: Field, y: Field, ax: Field | float, ay: Field | float, bx: Field | float, by: Field | float, width: Field | float
) -> Field:
    """A stroke from a to b with round ends, `width` thick."""
    dx, dy = bx - ax, by - ay
    along = ((x - ax) * dx + (y - ay) * dy) / np.maximum(dx * dx + dy * dy, 1e-6)
    along = np.clip(along, 0, 1)
    return np.hypot(x - ax - along * dx, y - ay - along * dy) - width / 2


def cover(distance: Field) -> Field:
    """How much of each pixel lies inside a shape, in [0, 1]: its edge is one pixel soft."""
    return np.clip(np.float32(0.5) - distance * np.float32(distance.shape[-1] / 2), 0, 1)


def mix(base: Colour, colour: Colour, alpha: Field) -> Colour:
    """`colour` over `base`, as opaque as `alpha` (N, S, S)."""
    return base + (colour - base) * alpha[..., None]


def shaded(colour: Colour, light: Field) -> Colour:
    """`colour` times a field of light -> (N, S, S, 3)."""
    return colour * light[..., None]


def tint(rng: Generator, low: float = 0.15, high: float = 0.9, saturation: float = 0.5) -> Colour:
    """A random colour, its lightness within the bounds, float32 (3,)."""
    hue = np.cos(2 * np.pi * (rng.uniform() + np.array([0.0, 1 / 3, 2 / 3])))
    lightness = rng.uniform(low, high)
    strength = saturation * rng.uniform() * min(lightness, 1 - lightness)
    return np.clip(lightness + strength * hue, 0, 1).astype(np.float32)


def contrast(rng: Generator, to: Colour, least: float = 0.2) -> Colour:
    """A random colour whose lightness differs from that of `to` by `least` or more."""
    for _ in range(20):
        colour = tint(rng, 0.05, 0.95)
        if abs(float(colour.mean() - to.mean())) >= least:
            return colour
    return np.full(3, 0.1 if to.mean() > 0.5 else 0.9, np.float32)


@functools.cache
def _cubic(size: int, count: int) -> NDArray[np.float32]:
    """Cubic B-spline weights (size, count + 3) that spread count + 3 values over size pixels."""
    position = (np.arange(size) + 0.5) / size * count + 1
    distance = np.abs(position[:, None] - np.arange(count + 3)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    # A spline smooths: bring the values back to unit variance.
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    return weights.astype(np.float32)
