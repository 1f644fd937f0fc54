"""What goes wrong with a part: kinds of defects, each a function that spoils pictures.

A kind takes a `Scene` (pictures that are still flawless, without light and noise) and returns their spoilt colours. The
mask is not drawn but measured: it is where the two differ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from o2n.data.fields import Colour, Drawing, Field, contrast, cover, disc, grid, mix, noise, segment, turn, vary


@dataclass(frozen=True)
class Scene:
    """Flawless pictures: the drawing, the coordinates it was drawn at, and how to draw it elsewhere or otherwise.

    again(x, y): the same pictures at other coordinates. other(x, y): those of another category of the family.
    Both are None for photographs, of which nothing but the colour is known.
    """

    drawing: Drawing
    x: Field
    y: Field
    again: Callable[[Field, Field], Drawing] | None = None
    other: Callable[[Field, Field], Drawing] | None = None

    @property
    def colour(self) -> Colour:
        return self.drawing.colour

    @property
    def count(self) -> int:
        return len(self.drawing.colour)

    @property
    def size(self) -> int:
        return int(self.drawing.colour.shape[1])


Kind = Callable[[Scene, Generator], Colour]


def _around(scene: Scene, rng: Generator) -> tuple[Field, Field]:
    """Picture coordinates around a random place, which lies on a part if there is one."""
    x, y = grid(scene.size)
    places = np.empty((2, scene.count, 1, 1), np.float32)
    for row, parts in enumerate(scene.drawing.parts):
        inside = np.argwhere(parts[3:-3, 3:-3] > 0)
        if len(inside) > 30 and rng.uniform() < 0.85:
            i, j = inside[rng.integers(len(inside))] + 3
            places[:, row, 0, 0] = x[i, j], y[i, j]
        else:
            places[:, row, 0, 0] = rng.uniform(-0.75, 0.75, 2)
    return x - places[0], y - places[1]


def _axes(scene: Scene, rng: Generator) -> tuple[Field, Field]:
    """The same, turned at random."""
    x, y = _around(scene, rng)
    return turn(x, y, vary(rng, scene.count, 0, 2 * np.pi))


def _blob(scene: Scene, rng: Generator, low: float, high: float) -> Field:
    """Signed distance to a ragged spot of radius `low` to `high`."""
    x, y = _axes(scene, rng)
    ragged = 1 + 0.35 * noise(rng, scene.count, scene.size, 7)
    return np.hypot(x, y * vary(rng, scene.count, 1, 2.2)) - vary(rng, scene.count, low, high) * np.clip(
        ragged, 0.4, 1.6
    )


def _soft(distance: Field, width: float) -> Field:
    """Like cover, its edge `width` soft."""
    return np.clip(0.5 - distance / np.float32(width), 0, 1)


def _foreign(scene: Scene, rng: Generator, least: float = 0.25) -> Colour:
    """For each picture a colour that stands off from its mean, (N, 1, 1, 3)."""
    means = scene.colour.mean(axis=(1, 2))
    return np.stack([contrast(rng, mean, least) for mean in means])[:, None, None]


def _stroke(scene: Scene, rng: Generator, steps: int, length: float, sway: float, width: tuple[float, float]) -> Field:
    """Signed distance to a broken line of `steps` pieces through a random place."""
    x, y = _axes(scene, rng)
    n = scene.count
    total = np.full(x.shape, 9.0, np.float32)
    thick = vary(rng, n, *width) * (2 / scene.size)
    px, py = vary(rng, n, -length, 0), vary(rng, n, -0.05, 0.05)
    heading = vary(rng, n, -0.3, 0.3)
    piece = vary(rng, n, 0.5, 1.0) * (2 * length / steps)
    for _ in range(steps):
        heading = heading + vary(rng, n, -sway, sway)
        qx, qy = px + piece * np.cos(heading), py + piece * np.sin(heading)
        total = np.minimum(total, segment(x, y, px, py, qx, qy, thick))
        px, py = qx, qy
    return total


# Seen in training


def scratch(scene: Scene, rng: Generator) -> Colour:
    line = _stroke(scene, rng, 3, 0.7, 0.12, (0.9, 1.7))
    return mix(scene.colour, _foreign(scene, rng, 0.3), cover(line) * vary(rng, scene.count, 0.6, 1))


def crack(scene: Scene, rng: Generator) -> Colour:
    line = _stroke(scene, rng, 7, 0.6, 0.9, (1.0, 2.0))
    return scene.colour * (1 - cover(line) * vary(rng, scene.count, 0.6, 0.95))[..., None]


def hole(scene: Scene, rng: Generator) -> Colour:
    spot = _blob(scene, rng, 0.07, 0.25)
    shade = vary(rng, scene.count, 0.0, 0.35)[..., None]
    inside = mix(scene.colour * shade, scene.drawing.ground, np.full_like(spot, float(rng.integers(2))))
    return mix(scene.colour, inside, cover(spot))


def stain(scene: Scene, rng: Generator) -> Colour:
    spot = _blob(scene, rng, 0.12, 0.4)
    return mix(scene.colour, _foreign(scene, rng), _soft(spot, 0.15) * vary(rng, scene.count, 0.35, 0.85))


def contamination(scene: Scene, rng: Generator) -> Colour:
    colour, spoilt = _foreign(scene, rng, 0.3), scene.colour
    for _ in range(int(rng.integers(1, 5))):
        spoilt = mix(spoilt, colour, cover(_blob(scene, rng, 0.04, 0.1)))
    return spoilt


def discolouration(scene: Scene, rng: Generator) -> Colour:
    spot = _blob(scene, rng, 0.2, 0.5)
    hue = rng.uniform(-0.35, 0.35, (scene.count, 1, 1, 3)).astype(np.float32)
    return scene.colour + hue * _soft(spot, 0.2)[..., None]


def cut_paste(scene: Scene, rng: Generator) -> Colour:
    x, y = _axes(scene, rng)
    patch = np.maximum(np.abs(x) - vary(rng, scene.count, 0.1, 0.35), np.abs(y) - vary(rng, scene.count, 0.1, 0.35))
    moved = np.roll(scene.colour, rng.integers(12, scene.size - 12, 2).tolist(), axis=(1, 2))
    if rng.uniform() < 0.6:
        moved = np.rot90(moved, int(rng.integers(1, 4)), axes=(1, 2))
    return mix(scene.colour, moved * vary(rng, scene.count, 0.75, 1.25)[..., None], cover(patch))


def missing_part(scene: Scene, rng: Generator) -> Colour:
    part = _some_part(scene, rng)
    return np.where(part[..., None], scene.drawing.ground, scene.colour)


def broken_edge(scene: Scene, rng: Generator) -> Colour:
    """A bite out of a part, where it borders on something else."""
    x, y = grid(scene.size)
    bite = np.full((scene.count, scene.size, scene.size), 9.0, np.float32)
    for row, parts in enumerate(scene.drawing.parts):
        edge = np.argwhere((parts[1:-1, 1:-1] > 0) & ((parts[1:-1, 2:] == 0) | (parts[2:, 1:-1] == 0)))
        if len(edge):
            i, j = edge[rng.integers(len(edge))] + 1
            bite[row] = disc(x, y, float(rng.uniform(0.1, 0.3)), x[i, j], y[i, j])
    ragged = bite + 0.05 * noise(rng, scene.count, scene.size, 14)
    return mix(scene.colour, scene.drawing.ground, cover(ragged))


def bent(scene: Scene, rng: Generator) -> Colour:
    if scene.again is None:
        return scene.colour
    u, v = _axes(scene, rng)
    reach = np.exp(-(u**2 + v**2) / vary(rng, scene.count, 0.05, 0.25))
    push = vary(rng, scene.count, 0.12, 0.35) * reach
    angle = vary(rng, scene.count, 0, 2 * np.pi)
    return scene.again(scene.x + push * np.cos(angle), scene.y + push * np.sin(angle)).colour


def extra_part(scene: Scene, rng: Generator) -> Colour:
    part = _some_part(scene, rng)
    shift = rng.integers(8, scene.size - 8, 2).tolist()
    moved, where = np.roll(scene.colour, shift, axis=(1, 2)), np.roll(part, shift, axis=(1, 2))
    return np.where(where[..., None], moved, scene.colour)


def swapped_part(scene: Scene, rng: Generator) -> Colour:
    """A part, or a spot of a surface, as another category of the same family has it."""
    if scene.other is None:
        return scene.colour
    where = (
        _some_part(scene, rng)
        | (_blob(scene, rng, 0.15, 0.35) < 0) & (scene.drawing.parts.max(axis=(1, 2)) == 0)[:, None, None]
    )
    return np.where(where[..., None], scene.other(scene.x, scene.y).colour, scene.colour)


def _some_part(scene: Scene, rng: Generator) -> np.ndarray:
    """Where one part of each picture is, bool (N, S, S); nowhere if it has none of fair size."""
    where = np.zeros(scene.drawing.parts.shape, bool)
    for row, parts in enumerate(scene.drawing.parts):
        numbers, areas = np.unique(parts, return_counts=True)
        fair = numbers[(numbers > 0) & (areas >= 12) & (areas < parts.size * 0.4)]
        if len(fair):
            where[row] = parts == rng.choice(fair)
    return where


# Never seen in training: to choose by


def frayed(scene: Scene, rng: Generator) -> Colour:
    """A region gone to crumbs: its pixels have changed places with others near by."""
    region = cover(_blob(scene, rng, 0.12, 0.3))
    shape, reach = region.shape, 2 * int(rng.integers(4, 9)) / scene.size
    dx, dy = rng.uniform(-reach, reach, (2, *shape)).astype(np.float32)
    return mix(scene.colour, _seen_at(scene, dx, dy), region)


def tarnish(scene: Scene, rng: Generator) -> Colour:
    """A region whose dark is bright and whose bright is dark."""
    region = _soft(_blob(scene, rng, 0.12, 0.35), 0.06)
    return mix(scene.colour, 1 - scene.colour, region * vary(rng, scene.count, 0.5, 1))


def twist(scene: Scene, rng: Generator) -> Colour:
    """A region wrung about its middle."""
    x, y = _around(scene, rng)
    angle = vary(rng, scene.count, 1.5, 3.5) * np.exp(-(x**2 + y**2) / vary(rng, scene.count, 0.2, 0.4) ** 2)
    return _turned(scene, x, y, angle)


def scuff(scene: Scene, rng: Generator) -> Colour:
    """A region rubbed against something: fine parallel strokes."""
    x, y = _axes(scene, rng)
    patch = np.maximum(np.abs(x) - vary(rng, scene.count, 0.15, 0.4), np.abs(y) - vary(rng, scene.count, 0.15, 0.4))
    strokes = np.clip(0.5 + 1.5 * np.sin(x * vary(rng, scene.count, 0.9, 1.6) * scene.size / 2), 0, 1)
    worn = strokes * cover(patch) * vary(rng, scene.count, 0.4, 0.9)
    return mix(scene.colour, _foreign(scene, rng), worn)


def turned_piece(scene: Scene, rng: Generator) -> Colour:
    """A round piece set in the wrong way round, a little darker than the rest."""
    x, y = _around(scene, rng)
    piece = cover(np.hypot(x, y) - vary(rng, scene.count, 0.15, 0.35))
    turned = _turned(scene, x, y, np.full_like(x, np.pi)) * vary(rng, scene.count, 0.7, 0.95)[..., None]
    return mix(scene.colour, turned, piece)


def ghost(scene: Scene, rng: Generator) -> Colour:
    """A region printed twice, the second time beside the first."""
    region = _soft(_blob(scene, rng, 0.2, 0.4), 0.08)
    shift = (rng.integers(3, 9, 2) * rng.choice([-1, 1], 2)).tolist()
    darker = np.minimum(scene.colour, np.roll(scene.colour, shift, axis=(1, 2)))
    return mix(scene.colour, darker * vary(rng, scene.count, 0.6, 0.9)[..., None], region)


def _turned(scene: Scene, x: Field, y: Field, angle: Field) -> Colour:
    """The colours, turned by `angle` about where x and y are 0."""
    u, v = turn(x, y, angle)
    return _seen_at(scene, u - x, v - y)


def _seen_at(scene: Scene, dx: Field, dy: Field) -> Colour:
    """The colours dx to the right of every pixel and dy below it, in units of the grid; beyond the border, its own."""
    last, half = scene.size - 1, scene.size / 2
    rows, columns = np.indices((scene.size, scene.size))
    rows = np.clip(np.rint(rows + dy * half), 0, last).astype(int)
    columns = np.clip(np.rint(columns + dx * half), 0, last).astype(int)
    return scene.colour[np.arange(scene.count)[:, None, None], rows, columns]


# Never seen in training, and never chosen by


def fibre(scene: Scene, rng: Generator) -> Colour:
    """A hair or a thread lying on the part: a thin curl of even colour with a faint shadow."""
    x, y = _axes(scene, rng)
    n = scene.count
    curl = vary(rng, n, 0.08, 0.25) * np.sin(x * vary(rng, n, 4, 9) + vary(rng, n, 0, 6))
    thread = np.maximum(
        np.abs(y - curl) - vary(rng, n, 0.6, 1.1) * (2 / scene.size), np.abs(x) - vary(rng, n, 0.25, 0.6)
    )
    shadow = scene.colour * (1 - 0.25 * cover(np.roll(thread, 1, axis=1)))[..., None]
    return mix(shadow, _foreign(scene, rng, 0.3), cover(thread))


def dent(scene: Scene, rng: Generator) -> Colour:
    """A hollow: its one side in the light, its other in the shade."""
    x, y = _axes(scene, rng)
    n = scene.count
    r2 = (x**2 + y**2) / vary(rng, n, 0.12, 0.3) ** 2
    slope = x / vary(rng, n, 0.12, 0.3) * np.exp(-r2)
    return scene.colour * (1 + vary(rng, n, 0.7, 1.3) * slope)[..., None]


def pitting(scene: Scene, rng: Generator) -> Colour:
    """A region eaten by corrosion: many small dark pits."""
    region = _soft(_blob(scene, rng, 0.2, 0.4), 0.1)
    pits = np.clip(noise(rng, scene.count, scene.size, 26) * 1.5 - 0.4, 0, 1)
    rust = np.array([0.35, 0.2, 0.1], np.float32) * np.float32(rng.uniform(0.3, 1.2))
    return mix(scene.colour, rust, region * pits * vary(rng, scene.count, 0.6, 1))


def smear(scene: Scene, rng: Generator) -> Colour:
    """A region wiped while wet: blurred along one direction."""
    region = _soft(_blob(scene, rng, 0.25, 0.45), 0.08)
    axis, reach = int(rng.integers(1, 3)), int(rng.integers(4, 9))
    wiped = np.mean([np.roll(scene.colour, shift, axis=axis) for shift in range(-reach, reach + 1)], axis=0)
    return mix(scene.colour, wiped.astype(np.float32), region)


def bubble(scene: Scene, rng: Generator) -> Colour:
    """A blister in the surface: a bright rim on one side, a dark one on the other, a gleam."""
    x, y = _axes(scene, rng)
    n = scene.count
    radius = vary(rng, n, 0.1, 0.24)
    rim = np.exp(-(((np.hypot(x, y) - radius) / (0.25 * radius)) ** 2))
    light = 1 + vary(rng, n, 0.4, 0.8) * rim * x / radius
    gleam = np.exp(-((x - 0.3 * radius) ** 2 + y**2) / (0.3 * radius) ** 2)
    return scene.colour * light[..., None] + (0.4 * gleam)[..., None]


def burn(scene: Scene, rng: Generator) -> Colour:
    """A scorched spot: a black core that fades through brown."""
    x, y = _axes(scene, rng)
    r = np.hypot(x, y) / vary(rng, scene.count, 0.12, 0.35) + 0.15 * noise(rng, scene.count, scene.size, 9)
    scorched = mix(scene.colour, np.array([0.3, 0.17, 0.07], np.float32), np.clip(1.6 - r, 0, 0.8))
    return mix(scorched, np.full(3, 0.03, np.float32), np.clip(1.2 - 1.5 * r, 0, 0.9))


def crease(scene: Scene, rng: Generator) -> Colour:
    """A fold: a long line, light on one side of it and dark on the other."""
    x, y = _axes(scene, rng)
    n = scene.count
    width = vary(rng, n, 0.03, 0.07)
    ridge = y / width * np.exp(-((y / width) ** 2)) * cover(np.abs(x) - vary(rng, n, 0.4, 0.9))
    return scene.colour * (1 + vary(rng, n, 0.5, 1.1) * ridge)[..., None]


def displaced_part(scene: Scene, rng: Generator) -> Colour:
    """A part that sits a little off its place; of a surface, a region that does."""
    part = _some_part(scene, rng)
    bare = (scene.drawing.parts.max(axis=(1, 2)) == 0)[:, None, None]
    part = part | bare & (_blob(scene, rng, 0.2, 0.35) < 0)
    shift = (rng.integers(3, 7, 2) * rng.choice([-1, 1], 2)).tolist()
    left = np.where(part[..., None], scene.drawing.ground, scene.colour)
    return np.where(np.roll(part, shift, axis=(1, 2))[..., None], np.roll(scene.colour, shift, axis=(1, 2)), left)


def tape(scene: Scene, rng: Generator) -> Colour:
    """A strip of half transparent tape left on the part."""
    x, y = _axes(scene, rng)
    strip = np.maximum(np.abs(x) - vary(rng, scene.count, 0.2, 0.5), np.abs(y) - vary(rng, scene.count, 0.08, 0.18))
    return mix(scene.colour, _foreign(scene, rng, 0.15), cover(strip) * vary(rng, scene.count, 0.4, 0.8))


def fade(scene: Scene, rng: Generator) -> Colour:
    """A region bleached: its colour and its pattern gone pale."""
    region = _soft(_blob(scene, rng, 0.25, 0.5), 0.12)
    mean = scene.colour.mean(axis=(1, 2), keepdims=True)
    pale = mean + (scene.colour - mean) * 0.35 + np.where(mean.mean(axis=-1, keepdims=True) > 0.6, -0.2, 0.2)
    return mix(scene.colour, pale.astype(np.float32), region * vary(rng, scene.count, 0.6, 1))


TRAINING_DEFECTS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        scratch,
        crack,
        hole,
        stain,
        contamination,
        discolouration,
        cut_paste,
        missing_part,
        broken_edge,
        bent,
        extra_part,
        swapped_part,
    )
}

VALIDATION_DEFECTS: dict[str, Kind] = {
    kind.__name__: kind for kind in (frayed, tarnish, twist, scuff, turned_piece, ghost)
}

EVALUATION_DEFECTS: dict[str, Kind] = {
    kind.__name__: kind for kind in (fibre, dent, pitting, smear, bubble, burn, crease, displaced_part, tape, fade)
}

VISIBLE = 0.06  # smallest difference of a colour, of 1, that counts as changed
LEAST_AREA = 12 / 64**2  # smallest share of a picture that a defect covers


def spoil(
    scene: Scene, kinds: dict[str, Kind], names: list[str], rng: Generator
) -> tuple[Colour, np.ndarray, list[str]]:
    """Give each picture the defect it is to have, "" for none.

    A defect that does not show (a bend in a plain surface, a stain in the part's own colour) is tried anew as another
    kind, and in the end a plain hole is made.

    Returns: the spoilt colours, their masks bool (N, S, S), and the kinds they came to have.
    """
    colour, done = scene.colour.copy(), list(names)
    masks = np.zeros(scene.colour.shape[:3], bool)
    open_ = [row for row, name in enumerate(names) if name]
    for _ in range(6):
        still = []
        for name in sorted({done[row] for row in open_}):
            rows = [row for row in open_ if done[row] == name]
            spoilt = np.clip(kinds[name](_rows(scene, rows), rng), 0, 1)
            differs = np.abs(spoilt - scene.colour[rows]).max(axis=-1)
            for row, picture, difference in zip(rows, spoilt, differs, strict=True):
                mask = difference > VISIBLE
                if mask.mean() >= LEAST_AREA and difference[mask].mean() > 2 * VISIBLE:
                    colour[row], masks[row] = picture, mask
                else:
                    still.append(row)
        open_ = still
        for row in open_:
            done[row] = str(rng.choice(list(kinds)))
        if not open_:
            break
    for row in open_:
        x, y = grid(scene.size)
        spot = disc(x, y, 0.15, *rng.uniform(-0.6, 0.6, 2).tolist()) < 0
        colour[row][spot] = 0.0 if scene.colour[row][spot].mean() > 0.5 else 1.0
        masks[row], done[row] = spot, "hole"
    return colour.astype(np.float32), masks, done


def _rows(scene: Scene, rows: list[int]) -> Scene:
    drawn = scene.drawing
    part = Drawing(drawn.colour[rows], drawn.ground[rows], drawn.parts[rows])

    def of_rows(draw: Callable[[Field, Field], Drawing] | None) -> Callable[[Field, Field], Drawing] | None:
        if draw is None:
            return None

        def drawn_there(x: Field, y: Field) -> Drawing:
            # Redrawn whole, since a picture's own randomness depends on its place in the batch.
            all_x, all_y = scene.x.copy(), scene.y.copy()
            all_x[rows], all_y[rows] = x, y
            whole = draw(all_x, all_y)
            return Drawing(whole.colour[rows], whole.ground[rows], whole.parts[rows])

        return drawn_there

    return Scene(part, scene.x[rows], scene.y[rows], of_rows(scene.again), of_rows(scene.other))
