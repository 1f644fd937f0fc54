"""The families of procedural pictures: weaves, stones, metals, parts, prints, tissues.

A family draws pictures of a category. What makes the category is drawn from `style` (the same for all its pictures),
what differs from picture to picture from `picture`; x and y are already turned, scaled and shifted.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from o2n.data.fields import (
    Colour,
    Drawing,
    Field,
    bilinear,
    box,
    cells,
    chance,
    contrast,
    cover,
    disc,
    drawing,
    fbm,
    grid,
    mix,
    noise,
    polygon,
    ring,
    segment,
    shaded,
    tint,
    turn,
    vary,
    worley,
)

Draw = Callable[[Field, Field, Generator, Generator], Drawing]


@dataclass(frozen=True)
class Family:
    """A kind of category: what it is called in prompts, how it is drawn, and how much its pose differs.

    angle: degrees to either side; shift: of the half side; zoom: as a fraction.
    """

    name: str
    word: str
    draw: Draw
    angle: float
    shift: float
    zoom: float


FAMILIES: dict[str, Family] = {}


def family(word: str, angle: float = 4, shift: float = 0.05, zoom: float = 0.04) -> Callable[[Draw], Draw]:
    """Register a family under its function's name."""

    def register(draw: Draw) -> Draw:
        name = draw.__name__.strip("_")
        FAMILIES[name] = Family(name, word, draw, angle, shift, zoom)
        return draw

    return register


def _salt(rng: Generator) -> int:
    return int(rng.integers(1 << 30))


def _fine(x: Field, picture: Generator, amount: float) -> Field:
    """The grain of a surface, around 1."""
    return 1 + amount * picture.standard_normal(x.shape, dtype=np.float32)


def _anew(x: Field, y: Field, picture: Generator, reach: float = 9.0) -> tuple[Field, Field]:
    """Another place of an endless surface for each picture."""
    return x + vary(picture, len(x), -reach, reach), y + vary(picture, len(x), -reach, reach)


def _table(x: Field, style: Generator, picture: Generator, low: float = 0.1, high: float = 0.9) -> Drawing:
    """The ground that an object lies on: plain, a little uneven."""
    size = x.shape[-1]
    uneven = 1 + style.uniform(0, 0.08) * noise(picture, len(x), size, 3)
    grain = _fine(x, picture, style.uniform(0, 0.04))
    return drawing(shaded(tint(style, low, high, 0.4), uneven * grain))


def _flat(x: Field, colour: Colour) -> Colour:
    return np.broadcast_to(colour, (*x.shape, 3)).astype(np.float32)


# Surfaces


@family("woven fabric", shift=0.5)
def weave(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    return _cloth(x, y, style, picture, lambda i, j: (i + j) % 2 == 0)


@family("twill fabric", shift=0.5)
def twill(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    width = int(style.integers(3, 6))
    return _cloth(x, y, style, picture, lambda i, j: (i + j) % width < width // 2)


@family("tartan cloth", shift=0.5)
def tartan(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture, 0.3)
    colours = [tint(style, 0.1, 0.9, 0.9) for _ in range(3)]
    salt, period = _salt(style), style.uniform(0.12, 0.3)
    i, _ = cells(x, period)
    j, _ = cells(y, period)
    warp, weft = chance(i % 5, 0 * i, salt), chance(j % 5, 0 * j, salt)
    colour = mix(_flat(x, colours[0]), colours[1], 0.55 * (warp > 0.5))
    colour = mix(colour, colours[2], 0.55 * (weft > 0.5))
    return drawing(shaded(colour, _fine(x, picture, 0.05)))


@family("knitted wool", shift=0.5)
def knit(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    period = style.uniform(0.16, 0.32)
    _, u = cells(x, period)
    slanted = y + np.abs(u) * period * style.uniform(0.6, 1.2)
    _, v = cells(slanted, period * style.uniform(0.5, 0.9))
    shade = 0.45 + 0.55 * np.cos(np.pi * v) * (0.4 + 0.6 * np.sin(np.pi * np.abs(u * 2)))
    return drawing(shaded(tint(style, 0.3, 0.9), shade * _fine(x, picture, 0.06)))


@family("carpet", angle=180, shift=0.5)
def carpet(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    tuft = noise(picture, len(x), size, int(style.integers(20, 44)))
    colour = mix(_flat(x, tint(style)), tint(style), np.clip(0.5 + 0.6 * tuft, 0, 1))
    return drawing(shaded(colour, 1 + 0.12 * noise(picture, len(x), size, 60)))


@family("leather", angle=180, shift=0.5)
def leather(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    size = x.shape[-1]
    wobble = 0.05 * noise(picture, len(x), size, 12)
    first, second, owner = worley(x + wobble, y - wobble, style.uniform(0.12, 0.3), _salt(style))
    crease = np.clip((second - first) * style.uniform(2, 5), 0, 1)
    light = 1 - style.uniform(0.25, 0.6) * (1 - crease) + 0.08 * (owner - 0.5)
    return drawing(shaded(tint(style, 0.2, 0.75, 0.8), light * _fine(x, picture, 0.03)))


@family("wood", angle=3, shift=0.5)
def wood(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    size = x.shape[-1]
    wander = style.uniform(0.1, 0.5) * noise(picture, len(x), size, 3, 1) + 0.04 * noise(picture, len(x), size, 16, 3)
    rings = 0.5 + 0.5 * np.sin((x + wander) * style.uniform(12, 40))
    dark = tint(style, 0.15, 0.45, 0.7)
    colour = mix(_flat(x, dark), dark + np.float32(style.uniform(0.12, 0.35)), rings ** style.uniform(0.5, 2))
    grain = 1 + style.uniform(0.03, 0.1) * noise(picture, len(x), size, 60, 5)
    return drawing(shaded(colour, grain))


@family("brushed metal", angle=3, shift=0.5)
def brushed(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    fine = noise(picture, len(x), size, 2, 60) * style.uniform(0.04, 0.12)
    broad = noise(picture, len(x), size, 1, 8) * style.uniform(0.02, 0.08)
    return drawing(shaded(tint(style, 0.4, 0.8, 0.2), 1 + fine + broad))


@family("cast metal", angle=180, shift=0.5)
def cast(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    rough = fbm(picture, len(x), x.shape[-1], int(style.integers(6, 24)), 3)
    light = 1 + style.uniform(0.06, 0.2) * rough
    return drawing(shaded(tint(style, 0.25, 0.7, 0.25), light))


@family("marble", angle=180, shift=0.5)
def marble(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    bent = x + style.uniform(0.3, 0.8) * fbm(picture, len(x), x.shape[-1], 3, 4) * 0.5
    vein = np.exp(-np.abs(np.sin(bent * style.uniform(2, 6))) * style.uniform(4, 12))
    base = tint(style, 0.15, 0.95, 0.4)
    colour = mix(_flat(x, base), contrast(style, base), style.uniform(0.4, 0.9) * vein)
    return drawing(shaded(colour, 1 + 0.04 * fbm(picture, len(x), x.shape[-1], 6)))


@family("terrazzo", angle=180, shift=0.5)
def terrazzo(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    base = tint(style, 0.4, 0.9)
    picture_ = drawing(shaded(base, _fine(x, picture, 0.03)))
    first, _, owner = worley(x, y, style.uniform(0.18, 0.4), _salt(style))
    size = style.uniform(0.25, 0.42) + 0.15 * (owner - 0.5)
    for third in range(3):
        chip = np.where((owner * 3).astype(np.int16) == third, first - size, 1.0).astype(np.float32)
        picture_.paint(chip * 0.15, contrast(style, base, 0.1))
    return picture_


@family("gravel", angle=180, shift=0.5)
def gravel(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    wobble = 0.04 * noise(picture, len(x), x.shape[-1], 20)
    first, second, owner = worley(x + wobble, y - wobble, style.uniform(0.15, 0.4), _salt(style))
    light = (0.65 + 0.6 * (owner - 0.5)) * np.clip((second - first) * 3, 0.15, 1) * (1.15 - 0.5 * first)
    return drawing(shaded(tint(style, 0.45, 0.95, 0.3), light * _fine(x, picture, 0.05)))


@family("concrete", angle=180, shift=0.5)
def concrete(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    size = x.shape[-1]
    light = 1 + style.uniform(0.03, 0.1) * fbm(picture, len(x), size, 4, 4)
    first, _, owner = worley(x, y, 0.12, _salt(style))
    pits = (owner < style.uniform(0.02, 0.12)) * np.clip(1 - first * 4, 0, 1)
    return drawing(shaded(tint(style, 0.35, 0.8, 0.15), light * (1 - 0.4 * pits) * _fine(x, picture, 0.03)))


@family("ceramic tiles", shift=0.3)
def tiles(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    period = style.uniform(0.4, 1.0)
    return _masonry(x, y, style, picture, period, period * style.choice([1.0, 1.0, 0.5]), 0.0)


@family("brick wall", shift=0.3)
def bricks(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    period = style.uniform(0.5, 1.1)
    return _masonry(x, y, style, picture, period, period * style.uniform(0.3, 0.5), 0.5)


@family("hexagonal tiles", shift=0.3)
def hexagons(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    period = style.uniform(0.3, 0.6)
    j, _ = cells(y, period * 0.866)
    i, u = cells(x + (j % 2) * np.float32(period / 2), period)
    _, v = cells(y, period * 0.866)
    tile = polygon(v * 0.866, u, 0.44, 6).astype(np.float32) * period
    joint = _flat(x, tint(style, 0.1, 0.9))
    surface = drawing(joint)
    body = contrast(style, joint[0, 0, 0], 0.2)
    light = 1 + style.uniform(0, 0.2) * (chance(i, j, _salt(picture)) - 0.5)
    surface.paint(tile, shaded(body, light * _fine(x, picture, 0.02)), (1 + (i * 7 + j * 13) % 97).astype(np.int16))
    return surface


@family("parquet", shift=0.3)
def parquet(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    period = style.uniform(0.5, 0.9)
    i, u = cells(x, period)
    j, v = cells(y, period)
    upright = (i + j) % 2 == 0
    across, along = np.where(upright, u, v), np.where(upright, v, u)
    count = int(style.integers(3, 5))
    strip, w = cells(across + 0.5, 1 / count)
    light = 0.85 + 0.35 * chance(i * 11 + strip, j * 7, _salt(picture)) + 0.04 * np.sin(w * 20 + along * 6)
    gap = np.clip((0.5 - np.maximum(np.abs(w), np.abs(along))) * 14, 0.35, 1)
    surface = drawing(shaded(tint(style, 0.3, 0.65, 0.7), light * gap * _fine(x, picture, 0.03)))
    surface.parts = (1 + (i * 31 + j * 17 + strip) % 97).astype(np.int16)
    return surface


@family("corrugated sheet", shift=0.3)
def corrugated(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    wave = np.sin(x * style.uniform(10, 30))
    light = 0.75 + style.uniform(0.15, 0.3) * wave + 0.03 * fbm(picture, len(x), x.shape[-1], 4)
    return drawing(shaded(tint(style, 0.4, 0.9, 0.4), light))


@family("wire mesh", shift=0.4)
def mesh(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = turn(x, y, style.choice([0.0, np.pi / 4]))
    period = style.uniform(0.22, 0.45)
    surface = _table(x, style, picture, 0.02, 0.4)
    wire = tint(style, 0.55, 0.95, 0.3)
    width = style.uniform(0.12, 0.25)
    for along, across in ((x, y), (y, x)):
        i, u = cells(along, period)
        light = 0.7 + 0.4 * np.cos(u * np.pi / width) + 0.1 * np.cos(across * 2 * np.pi / period + np.pi * i)
        surface.paint((np.abs(u) - width / 2) * period, shaded(wire, light))
    return surface


@family("perforated plate", shift=0.3)
def perforated(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    period = style.uniform(0.25, 0.5)
    surface = drawing(shaded(tint(style, 0.45, 0.9, 0.3), 1 + 0.04 * fbm(picture, len(x), x.shape[-1], 5)))
    j, v = cells(y, period)
    i, u = cells(x + (j % 2) * np.float32(period / 2 * style.integers(2)), period)
    part = (1 + (i * 13 + j * 31) % 97).astype(np.int16)
    surface.paint(disc(u, v, style.uniform(0.18, 0.36)) * period, tint(style, 0.02, 0.25), part)
    return surface


@family("paper", angle=180, shift=0.5)
def paper(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    light = 1 + 0.02 * fbm(picture, len(x), size, 5) + style.uniform(0.01, 0.05) * noise(picture, len(x), size, 48)
    return drawing(shaded(tint(style, 0.5, 0.95, 0.4), light))


@family("sandpaper", angle=180, shift=0.5)
def sandpaper(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    grain = noise(picture, len(x), x.shape[-1], int(style.integers(36, 62)))
    return drawing(shaded(tint(style, 0.25, 0.7, 0.7), 1 + style.uniform(0.1, 0.3) * grain))


@family("tread plate", shift=0.3)
def tread(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    period = style.uniform(0.3, 0.5)
    surface = drawing(shaded(tint(style, 0.35, 0.7, 0.2), 1 + 0.05 * fbm(picture, len(x), x.shape[-1], 8)))
    i, u = cells(x, period)
    j, v = cells(y, period)
    upright = (i + j) % 2 == 0
    a, b = turn(u, v, np.where(upright, np.pi / 4, -np.pi / 4).astype(np.float32))
    lozenge = (np.hypot(a * 1.0, b * style.uniform(3, 4.5)) - 0.42) * period * 0.4
    part = (1 + (i * 13 + j * 31) % 97).astype(np.int16)
    surface.paint(lozenge.astype(np.float32), shaded(tint(style, 0.6, 0.95, 0.2), 1 - 0.5 * b), part)
    return surface


@family("solar cell", angle=2, shift=0.1)
def solar(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    _, _, owner = worley(x, y, 0.4, _salt(picture))
    surface = drawing(shaded(tint(style, 0.1, 0.35, 0.9), 0.85 + style.uniform(0, 0.4) * owner))
    bar = tint(style, 0.7, 0.95, 0.1)
    _, u = cells(x, style.uniform(0.1, 0.2))
    surface.colour = mix(surface.colour, bar, 0.4 * (np.abs(u) < 0.2))
    period = style.uniform(0.5, 0.9)
    _, v = cells(y, period)
    surface.paint((np.abs(v) - 0.06) * period, bar)
    return surface


@family("cork", angle=180, shift=0.5)
def cork(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    first, second, owner = worley(x, y, style.uniform(0.08, 0.18), _salt(style))
    light = 0.7 + 0.5 * owner - 0.5 * (owner > 0.93)
    return drawing(shaded(tint(style, 0.4, 0.7, 0.8), light * np.clip(0.7 + (second - first), 0, 1)))


@family("grass", angle=180, shift=0.5)
def grass(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    table = style.standard_normal((64, 64)).astype(np.float32)
    total = np.full(x.shape, -9.0, np.float32)
    fineness = style.uniform(6, 12)
    for _ in range(3):
        a, b = turn(*_anew(x, y, picture, 5), style.uniform(-0.6, 0.6) + 0.4 * noise(picture, len(x), size, 4))
        total = np.maximum(total, bilinear(table, a * fineness * 2, b * fineness * 0.35))
    return drawing(shaded(tint(style, 0.35, 0.7, 0.8), np.clip(0.55 + 0.3 * total, 0.1, 1.6)))


@family("rippled glass", angle=180, shift=0.5)
def ripples(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    bent = style.uniform(0.05, 0.25) * noise(picture, len(x), size, 6)
    wave = np.sin((np.hypot(x + 2, y) + bent) * style.uniform(15, 35))
    return drawing(shaded(tint(style, 0.4, 0.85, 0.5), 1 + style.uniform(0.1, 0.25) * wave))


# Parts


@family("hex nut", angle=180)
def nut(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    metal = contrast(style, scene.ground[0, 0, 0], 0.25)
    size = style.uniform(0.5, 0.75)
    sector = np.cos(3 * np.arctan2(y, x)) * 0.12
    scene.paint(polygon(x, y, size, 6), shaded(metal, 0.85 + sector), 1)
    scene.paint(disc(x, y, size * 0.92), shaded(metal, 1.05 + 0.1 * x))
    hole = size * style.uniform(0.4, 0.62)
    scene.paint(disc(x, y, hole), shaded(metal, 0.55 + 0.2 * np.sin(np.hypot(x, y) * 70)))
    scene.paint(disc(x, y, hole * 0.86), scene.ground)
    return scene


@family("gear", angle=180)
def gear(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    metal = contrast(style, scene.ground[0, 0, 0], 0.25)
    count, root = int(style.integers(8, 18)), style.uniform(0.5, 0.65)
    phase = np.arctan2(y, x) * (count / (2 * np.pi))
    radius = np.hypot(x, y)
    tooth = np.clip((np.cos(phase * 2 * np.pi) + style.uniform(-0.2, 0.3)) * 4, 0, 1)
    number = (2 + np.round(phase).astype(np.int32) % count).astype(np.int16)
    light = 0.95 + 0.15 * x
    scene.paint(radius - root - 0.16 * tooth, shaded(metal, light), np.where(radius > root, number, 1).astype(np.int16))
    for inner in range(int(style.integers(0, 2)) * int(style.integers(3, 7))):
        a = 2 * np.pi * inner / 6
        scene.paint(disc(x, y, 0.09, 0.34 * np.cos(a), 0.34 * np.sin(a)), scene.ground)
    scene.paint(ring(x, y, root * 0.8, 0.04), shaded(metal, light * 0.8))
    scene.paint(disc(x, y, style.uniform(0.12, 0.2)), scene.ground)
    return scene


@family("screw", angle=12)
def screw(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    x, y = turn(x, y, style.uniform(0, 3))
    metal = contrast(style, scene.ground[0, 0, 0], 0.25)
    width, pitch = style.uniform(0.13, 0.22), style.uniform(40, 70)
    round_ = 0.7 + 0.4 * np.cos(np.clip(x / width, -1, 1) * 1.4)
    thread = 0.03 * np.sin(y * pitch + x * 4)
    taper = np.minimum(1, (0.85 - y) * 4)
    scene.paint(
        box(x / np.maximum(taper, 0.2) + 0 * y, y - 0.15, width + thread, 0.7),
        shaded(metal, round_ * (1 + thread * 9)),
        1,
    )
    head = style.uniform(0.26, 0.4)
    scene.paint(box(x, y + 0.62, head, 0.14, 0.08), shaded(metal, 0.8 + 0.3 * np.cos(x / head * 1.4)), 2)
    scene.paint(box(x, y + 0.74, head * 0.25, 0.05), shaded(metal, 0.4 + 0 * x))
    return scene


@family("washer", angle=180)
def washer(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    metal = contrast(style, scene.ground[0, 0, 0], 0.25)
    radius, width = style.uniform(0.4, 0.6), style.uniform(0.2, 0.4)
    sheen = 1 + 0.18 * np.cos(2 * np.arctan2(y, x) + style.uniform(0, 3))
    scene.paint(ring(x, y, radius, width), shaded(metal, sheen), 1)
    scene.paint(ring(x, y, radius, width * style.uniform(0.05, 0.3)), shaded(metal, sheen * 0.85))
    return scene


@family("capsule", angle=15)
def capsule(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    x, y = turn(x, y, style.uniform(0, 3))
    width = style.uniform(0.25, 0.36)
    light = 0.7 + 0.4 * np.cos(y / width * 1.2) + 0.25 * np.exp(-(((y + width * 0.4) / 0.05) ** 2))
    halves = [contrast(style, scene.ground[0, 0, 0], 0.15) for _ in range(2)]
    body = box(x, y, 0.78, width, width)
    split = style.uniform(-0.15, 0.15)
    scene.paint(np.maximum(body, x - split), shaded(halves[0], light), 1)
    scene.paint(np.maximum(body, split - x), shaded(halves[1], light), 2)
    scene.paint(np.maximum(body, np.abs(x - split) - 0.02), shaded(halves[0], light * 0.7))
    _print(scene, x - split - 0.32, y, style, 0.2, contrast(style, halves[1], 0.4))
    return scene


@family("pill", angle=180)
def pill(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    body = contrast(style, scene.ground[0, 0, 0], 0.2)
    radius, oval = style.uniform(0.5, 0.7), style.uniform(0.7, 1.0)
    d = disc(x, y / oval, radius)
    speckle = 1 + style.uniform(0, 0.12) * np.maximum(0, noise(picture, len(x), x.shape[-1], 40))
    scene.paint(d, shaded(body, np.clip(0.75 - d * 1.2, 0.6, 1.05) * speckle), 1)
    if style.uniform() < 0.6:
        scene.emboss(np.maximum(np.abs(x) - 0.025, d + 0.05), 0.3)
    else:
        _print(scene, x, y, style, 0.36, body * 0.6)
    return scene


@family("bottle cap", angle=180)
def cap(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    body = contrast(style, scene.ground[0, 0, 0], 0.2)
    count = int(style.integers(14, 26))
    angle = np.arctan2(y, x)
    flute = 0.04 * np.cos(angle * count)
    scene.paint(np.hypot(x, y) - 0.72 - flute, shaded(body, 0.75 + 4 * flute), 1)
    scene.paint(disc(x, y, 0.6), shaded(body, 1 + 0.12 * x - 0.1 * y))
    accent = contrast(style, body, 0.25)
    scene.paint(ring(x, y, style.uniform(0.42, 0.52), 0.06), accent)
    _print(scene, x, y, style, 0.34, accent, 2)
    return scene


@family("bottle", angle=180)
def bottle(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    glass = contrast(style, scene.ground[0, 0, 0], 0.15)
    angle = np.arctan2(y, x)
    for radius, width in ((0.72, 0.16), (0.55, 0.12), (0.4, 0.1)):
        light = style.uniform(0.5, 1.2) + 0.3 * np.cos(angle * int(style.integers(1, 4)) + style.uniform(0, 6))
        scene.paint(disc(x, y, radius + width / 2), shaded(glass, light), 1 if radius == 0.72 else None)
    scene.paint(disc(x, y, 0.34), tint(style, 0.01, 0.2))
    return scene


@family("connector", angle=3)
def connector(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    x, y = turn(x, y, float(style.integers(2)) * np.pi / 2)
    housing = contrast(style, scene.ground[0, 0, 0], 0.2)
    pin = contrast(style, housing, 0.3)
    scene.paint(box(x, y, 0.82, 0.42, 0.06), shaded(housing, 1 + 0.1 * y), 1)
    scene.paint(box(x, y, 0.74, 0.32, 0.04), shaded(housing, 0.75 + 0 * x))
    columns, rows = int(style.integers(4, 8)), int(style.integers(1, 3))
    round_ = style.uniform() < 0.5
    for row in range(rows):
        for column in range(columns):
            u = x - (column - (columns - 1) / 2) * 1.4 / columns
            v = y - (row - (rows - 1) / 2) * 0.32
            d = disc(u, v, 0.07) if round_ else box(u, v, 0.05, 0.1)
            scene.paint(d, shaded(pin, 1 - 2 * v), 2 + row * columns + column)
    return scene


@family("circuit board", angle=2, shift=0.04)
def board(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    lacquer = tint(style, 0.15, 0.4, 0.9)
    scene = drawing(shaded(lacquer, 1 + 0.03 * fbm(picture, len(x), x.shape[-1], 5)))
    trace = lacquer * 1.5
    for _ in range(int(style.integers(4, 9))):
        a, b, c, d = style.uniform(-1, 1, 4).tolist()
        scene.paint(np.minimum(segment(x, y, a, b, a, d, 0.04), segment(x, y, a, d, c, d, 0.04)), trace)
        scene.paint(disc(x, y, 0.05, c, d), tint(style, 0.7, 0.9, 0.5))
    scene.ground = scene.colour.copy()
    for number in range(int(style.integers(5, 10))):
        u, v = x - style.uniform(-0.8, 0.8), y - style.uniform(-0.8, 0.8)
        kind, long = style.integers(3), style.uniform(0.12, 0.3)
        colour = contrast(style, lacquer, 0.15)
        if kind == 0:
            scene.paint(disc(u, v, long * 0.7), shaded(colour, 1 + u), number + 1)
            scene.paint(disc(u, v, long * 0.4), shaded(colour, 0.8 - u))
        else:
            w, h = (long, long * 0.5) if kind == 1 else (long * 0.5, long)
            scene.paint(box(u, v, w, h), colour, number + 1)
            ends = np.maximum(box(u, v, w, h), 0.6 * max(w, h) - (np.abs(u) if w > h else np.abs(v)))
            scene.paint(ends, np.float32(0.8) * np.ones(3, np.float32))
    return scene


@family("microchip", angle=3)
def chip(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture, 0.3, 0.9)
    x, y = turn(x, y, float(style.integers(2)) * np.pi / 2)
    count, leg = int(style.integers(4, 8)), tint(style, 0.6, 0.95, 0.2)
    width = style.uniform(0.35, 0.5)
    for number in range(count):
        v = y - (number - (count - 1) / 2) * 1.4 / count
        for side in (-1, 1):
            scene.paint(box(x - side * (width + 0.12), v, 0.16, 0.045), leg, 2 + 2 * number + (side > 0))
    body = tint(style, 0.05, 0.25, 0.3)
    scene.paint(box(x, y, width, 0.8, 0.04), shaded(body, 1 + 0.15 * y), 1)
    scene.paint(disc(x, y, 0.07, -width * 0.6, -0.65), body * 0.4)
    _print(scene, x, y, style, 0.3, contrast(style, body, 0.3), 2)
    return scene


@family("blister pack", angle=3)
def blister(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    foil = 1 + 0.06 * noise(picture, len(x), x.shape[-1], 14)
    scene = drawing(shaded(tint(style, 0.5, 0.85, 0.2), foil))
    columns, rows = int(style.integers(2, 4)), int(style.integers(2, 5))
    colour, radius = contrast(style, scene.ground[0, 0, 0], 0.2), style.uniform(0.3, 0.42)
    for row in range(rows):
        for column in range(columns):
            u = x - (column - (columns - 1) / 2) * 1.8 / columns
            v = y - (row - (rows - 1) / 2) * 1.8 / rows
            r = radius * 1.8 / max(columns, rows)
            scene.emboss(disc(u, v, r * 1.25), 0.2)
            scene.paint(disc(u, v, r), shaded(colour, 1 - 0.9 * u - 0.9 * v), 1 + row * columns + column)
    return scene


@family("cable", angle=180)
def cable(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    jacket = contrast(style, scene.ground[0, 0, 0], 0.2)
    scene.paint(disc(x, y, 0.8), shaded(jacket, 0.9 + 0.2 * x), 1)
    count = int(style.integers(2, 5))
    copper = tint(style, 0.5, 0.75, 0.9)
    strands = 0.8 + 0.35 * np.sin(x * 60) * np.sin(y * 60)
    for number in range(count):
        a = 2 * np.pi * number / count
        u, v = x - 0.4 * np.cos(a), y - 0.4 * np.sin(a)
        scene.paint(disc(u, v, 0.3), tint(style, 0.2, 0.8, 0.9), 2 + number)
        scene.paint(disc(u, v, 0.18), shaded(copper, strands))
    return scene


@family("toothbrush", angle=3)
def brush(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    handle = contrast(style, scene.ground[0, 0, 0], 0.2)
    scene.paint(box(x, y, 0.5, 0.85, 0.4), shaded(handle, 1 + 0.1 * x), 1)
    colours = [contrast(style, handle, 0.2) for _ in range(2)]
    rows, columns = int(style.integers(4, 7)), int(style.integers(2, 5))
    bristle = 1 + 0.2 * noise(picture, len(x), x.shape[-1], 60)
    for row in range(rows):
        for column in range(columns):
            u = x - (column - (columns - 1) / 2) * 0.8 / columns
            v = y - (row - (rows - 1) / 2) * 1.3 / rows
            scene.paint(
                disc(u, v, 0.36 / max(columns, rows * 0.6)),
                shaded(colours[row % 2], bristle),
                2 + row * columns + column,
            )
    return scene


@family("zipper", angle=3)
def zipper(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    cloth = 1 + 0.06 * np.sin(x * 50) * np.sin(y * 50) + 0.03 * noise(picture, len(x), x.shape[-1], 50)
    scene = drawing(shaded(tint(style, 0.1, 0.8, 0.6), cloth))
    metal = contrast(style, scene.ground[0, 0, 0], 0.25)
    y = y + vary(picture, len(x), -0.3, 0.3)
    period, width = style.uniform(0.2, 0.32), style.uniform(0.24, 0.36)
    for side in (-1, 1):
        j, v = cells(y + (side > 0) * period / 2, period)
        tooth = box(x + side * width * 0.55, v * period, width, period * 0.24, 0.03)
        scene.paint(tooth, shaded(metal, 1 - v), (1 + (j * 2 + (side > 0)) % 97).astype(np.int16))
    return scene


@family("coin", angle=180)
def coin(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    metal = contrast(style, scene.ground[0, 0, 0], 0.2)
    scene.paint(disc(x, y, 0.76), shaded(metal, 0.95 + 0.15 * x), 1)
    scene.paint(ring(x, y, 0.7, 0.06), shaded(metal, 1.15 - 0.1 * y))
    count = int(style.integers(16, 40))
    dots = np.cos(np.arctan2(y, x) * count)
    scene.paint(np.maximum(ring(x, y, 0.6, 0.06), -dots * 0.03), shaded(metal, 0.7 + 0 * x))
    _print(scene, x, y, style, 0.42, metal * np.float32(style.choice([0.65, 1.3])), int(style.integers(1, 3)))
    return scene


@family("button", angle=180)
def button(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    body = contrast(style, scene.ground[0, 0, 0], 0.2)
    r = np.hypot(x, y)
    scene.paint(disc(x, y, 0.74), shaded(body, 0.85 + 0.25 * np.cos(r * style.uniform(5, 12)) + 0.1 * x), 1)
    count = int(style.integers(2, 5))
    for number in range(count):
        a = 2 * np.pi * number / count
        scene.paint(disc(x, y, 0.1, 0.22 * np.cos(a), 0.22 * np.sin(a)), scene.ground * 0.6, 2 + number)
    return scene


@family("key", angle=8)
def key(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    x, y = turn(x, y, style.uniform(0, 3))
    metal = contrast(style, scene.ground[0, 0, 0], 0.25)
    light = 1 + 0.15 * y
    scene.paint(box(x - 0.25, y, 0.6, 0.08), shaded(metal, light), 1)
    for number in range(int(style.integers(3, 6))):
        scene.paint(
            box(x - 0.25 - 0.13 * number, y - 0.14, 0.04, style.uniform(0.05, 0.16)), shaded(metal, light), 2 + number
        )
    scene.paint(disc(x, y, 0.32, -0.52, 0.0), shaded(metal, light), 9)
    scene.paint(disc(x, y, style.uniform(0.08, 0.2), -0.6, 0.0), scene.ground)
    return scene


@family("printed label", angle=3)
def label(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture, 0.5, 0.95)
    ink = contrast(style, scene.ground[0, 0, 0], 0.4)
    rows = int(style.integers(1, 4))
    for row in range(rows):
        v = y - (row - (rows - 1) / 2) * 1.5 / rows
        _print(scene, x, v, style, 1.3 / max(rows, 2), ink, int(style.integers(3, 6)), 1 + 6 * row)
    return scene


@family("barcode", angle=2)
def barcode(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture, 0.7, 0.95)
    i, _ = cells(x, style.uniform(0.05, 0.1))
    bar = (chance(i, 0 * i, _salt(style)) < 0.5) & (np.abs(x) < 0.85)
    height = style.uniform(0.4, 0.7)
    ink = tint(style, 0.02, 0.25)
    scene.colour = mix(scene.colour, ink, bar * cover(np.abs(y + 0.1) - height))
    _print(scene, x, y - height - 0.1, style, 0.25, ink, 5)
    return scene


@family("gauge", angle=3)
def gauge(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    face = contrast(style, scene.ground[0, 0, 0], 0.2)
    ink = contrast(style, face, 0.4)
    scene.paint(disc(x, y, 0.85), ink * 0.8 + 0.1, 1)
    scene.paint(disc(x, y, 0.76), shaded(face, 1 + 0.05 * x))
    count = int(style.integers(8, 16))
    phase = np.arctan2(y, x) * (count / (2 * np.pi))
    tick = (np.abs(phase - np.round(phase)) * 2 * np.pi / count * np.hypot(x, y)) - 0.025
    scene.paint(
        np.maximum(tick, ring(x, y, 0.64, 0.14)), ink, (2 + np.round(phase).astype(np.int32) % count).astype(np.int16)
    )
    angle = style.uniform(0, 6) + vary(picture, len(x), -0.35, 0.35)
    needle = tint(style, 0.3, 0.7, 1.0)
    scene.paint(segment(x, y, 0.0, 0.0, 0.5 * np.cos(angle), 0.5 * np.sin(angle), 0.07), needle, 60)
    scene.paint(disc(x, y, 0.1), ink, 61)
    return scene


@family("digital display", angle=2)
def display(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture, 0.03, 0.25)
    lit = tint(style, 0.5, 0.8, 1.0)
    count = int(style.integers(1, 4))
    number = 1
    for place in range(count):
        u = (x - (place - (count - 1) / 2) * 1.7 / count) * count / 1.5
        v = y * 1.5
        bars = (
            (0, -0.8, 1),
            (0, 0, 1),
            (0, 0.8, 1),
            (-0.45, -0.4, 0),
            (0.45, -0.4, 0),
            (-0.45, 0.4, 0),
            (0.45, 0.4, 0),
        )
        for cx, cy, flat in bars:
            on = style.uniform() < 0.7
            d = box(u - cx, v - cy, 0.34, 0.09, 0.05) if flat else box(u - cx, v - cy, 0.09, 0.3, 0.05)
            scene.paint(d * 0.6, lit if on else lit * 0.15 + 0.05, number)
            number += 1
    return scene


@family("tissue section", angle=180, shift=0.5)
def tissue(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = _anew(x, y, picture)
    size = x.shape[-1]
    stain = tint(style, 0.55, 0.85, 0.9)
    wobble = 0.05 * noise(picture, len(x), size, 10)
    first, second, owner = worley(x + wobble, y - wobble, style.uniform(0.2, 0.36), _salt(style))
    light = 1 - 0.3 * np.exp(-(second - first) * 8) + 0.05 * fbm(picture, len(x), size, 6)
    scene = drawing(shaded(stain, light))
    nucleus = (first - style.uniform(0.14, 0.26) - 0.1 * (owner - 0.5)) * 0.3
    scene.paint(
        nucleus.astype(np.float32),
        shaded(stain * np.float32(0.5), 0.8 + 0.4 * owner),
        (1 + owner * 96).astype(np.int16),
    )
    return scene


@family("brain scan", angle=6)
def brain(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    scene = drawing(_flat(x, np.full(3, 0.03, np.float32)))
    oval = style.uniform(0.75, 0.9)
    r = np.hypot(x / oval, y) + 0.02 * noise(picture, len(x), size, 5)
    grey = np.full(3, style.uniform(0.4, 0.6), np.float32)
    scene.paint(r - 0.85, grey * 1.5, 1)
    scene.paint(r - 0.78, grey * 0.3)
    folds = np.sin(np.arctan2(y, x) * int(style.integers(9, 18)) + 3 * noise(picture, len(x), size, 5)) * 0.05
    scene.paint(r - 0.72 - folds, shaded(grey, 1 + 0.06 * fbm(picture, len(x), size, 8)), 2)
    scene.paint(r - 0.5 - 2 * folds, shaded(grey * 1.35, 1 + 0.04 * fbm(picture, len(x), size, 8)))
    wide = vary(picture, len(x), 0.8, 1.2)
    for side in (-1, 1):
        u, v = turn(x - side * 0.15, y + 0.05, side * 0.3)
        scene.paint((np.hypot(u / 0.4, v) - 0.24 * wide) * 0.5, grey * 0.2)
    scene.paint(np.maximum(np.abs(x) - 0.015, r - 0.72), grey * 0.4)
    return scene


@family("chest scan", angle=4)
def chest(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    scene = drawing(shaded(np.full(3, style.uniform(0.5, 0.75), np.float32), 1 + 0.1 * noise(picture, len(x), size, 3)))
    breath = vary(picture, len(x), 0.92, 1.08)
    tall = style.uniform(0.6, 0.75)
    for side in (-1, 1):
        u = x - side * 0.42
        lung = (np.hypot(u / 0.55, (y + 0.05) / breath) - tall) * 0.6
        scene.paint(
            lung, shaded(np.full(3, 0.22, np.float32), 1 + 0.25 * fbm(picture, len(x), size, 6)), 2 + (side > 0)
        )
    rib = np.cos((y + 0.45 * np.abs(x)) * breath * style.uniform(14, 20))
    scene.colour = scene.colour + (0.12 * np.clip(rib, 0, 1) * (np.abs(x) > 0.1))[..., None]
    scene.colour = mix(scene.colour, np.full(3, 0.8, np.float32), 0.6 * cover(box(x, y, 0.1, 1.2)))
    scene.paint((np.hypot((x - 0.18) / 0.8, y - 0.3) - 0.32) * 0.8, np.full(3, 0.75, np.float32), 1)
    return scene


@family("retina", angle=10)
def retina(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    scene = drawing(_flat(x, np.full(3, 0.02, np.float32)))
    body = tint(style, 0.35, 0.6, 1.0)
    scene.paint(disc(x, y, 0.9), shaded(body, 1 + 0.06 * fbm(picture, len(x), size, 4) - 0.25 * np.hypot(x, y)), 1)
    cx, cy = style.uniform(0.3, 0.45), style.uniform(-0.1, 0.1)
    vein = body * np.float32(0.55)
    for _ in range(int(style.integers(4, 7))):
        a, px, py = style.uniform(0, 2 * np.pi), cx, cy
        sway = vary(picture, len(x), -0.05, 0.05)
        for step in range(5):
            a += style.uniform(-0.45, 0.45)
            qx, qy = px + 0.28 * np.cos(a), py + 0.28 * np.sin(a)
            stroke = segment(x, y, px + sway, py - sway, qx + sway, qy - sway, 0.07 - 0.01 * step)
            scene.paint(np.maximum(stroke, disc(x, y, 0.88)), vein)
            px, py = qx, qy
    scene.paint(disc(x, y, 0.17, cx, cy), np.clip(body * 1.8, 0, 1), 2)
    scene.colour = scene.colour * (1 - 0.4 * np.exp(-((x + 0.25) ** 2 + y**2) * 40))[..., None]
    return scene


@family("fuse", angle=4)
def fuse(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture, 0.4, 0.95)
    x, y = turn(x, y, style.uniform(0, 3))
    width = style.uniform(0.2, 0.3)
    gleam = 0.8 + 0.35 * np.cos(y / width * 1.3)
    scene.paint(box(x, y, 0.6, width), scene.ground * 0.85 + 0.1, 1)
    sag = vary(picture, len(x), -0.06, 0.06) * np.cos(x * 2.5)
    scene.paint(np.maximum(np.abs(y + sag) - 0.035, np.abs(x) - 0.6), tint(style, 0.1, 0.4), 2)
    metal = tint(style, 0.5, 0.9, 0.4)
    for side in (-1, 1):
        scene.paint(box(x - side * 0.66, y, 0.2, width * 1.1, 0.03), shaded(metal, gleam), 3 + (side > 0))
    return scene


@family("spring", angle=5)
def spring(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    x, y = turn(x, y, style.uniform(0, 3))
    metal = contrast(style, scene.ground[0, 0, 0], 0.3)
    period, height = style.uniform(0.18, 0.3), style.uniform(0.25, 0.4)
    period_now = period * vary(picture, len(x), 0.97, 1.03)
    i, u = cells((x + y * style.uniform(0.1, 0.25)) / period_now, 1.0)
    coil = np.maximum(np.abs(u * period) - period * 0.24, box(x, y, 0.8, height))
    scene.paint(coil, shaded(metal, 0.7 + 0.5 * np.cos(y / height * 1.4)), (1 + i % 97).astype(np.int16))
    return scene


@family("flange", angle=180)
def flange(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    metal = contrast(style, scene.ground[0, 0, 0], 0.25)
    rough = 1 + 0.05 * noise(picture, len(x), x.shape[-1], 30)
    scene.paint(disc(x, y, 0.82), shaded(metal, rough * (0.95 + 0.1 * x)), 1)
    count = int(style.integers(4, 9))
    for number in range(count):
        a = 2 * np.pi * number / count
        scene.paint(disc(x, y, 0.09, 0.6 * np.cos(a), 0.6 * np.sin(a)), metal * 0.25, 2 + number)
    scene.paint(ring(x, y, 0.4, 0.1), shaded(metal, 1.2 - 0.2 * y))
    scene.paint(disc(x, y, style.uniform(0.18, 0.32)), scene.ground * 0.5)
    return scene


@family("led panel", angle=2)
def leds(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture, 0.02, 0.2)
    count, colour = int(style.integers(3, 6)), tint(style, 0.5, 0.8, 1.0)
    period = 1.8 / count
    i, u = cells(x + 0.9, period)
    j, v = cells(y + 0.9, period)
    inside = (np.abs(x) < 0.9) & (np.abs(y) < 0.9)
    glow = np.exp(-(u**2 + v**2) * 9) * inside
    scene.colour = scene.colour + colour * glow[..., None] * 0.4
    lamp = np.where(inside, disc(u, v, 0.25) * period, 1.0).astype(np.float32)
    scene.paint(lamp, np.clip(colour * 1.2, 0, 1), (1 + i * count + j).astype(np.int16))
    return scene


@family("candles", angle=3)
def candles(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    wax = contrast(style, scene.ground[0, 0, 0], 0.2)
    size = style.uniform(0.28, 0.38)
    for number in range(4):
        u = x - (number % 2 - 0.5) * 0.95 - vary(picture, len(x), -0.05, 0.05)
        v = y - (number // 2 - 0.5) * 0.95 - vary(picture, len(x), -0.05, 0.05)
        scene.paint(disc(u, v, size), shaded(wax, 0.95 + 0.3 * u), 1 + number)
        scene.paint(disc(u, v, size * 0.75), shaded(wax, 1.08 - 0.2 * u))
        scene.paint(disc(u, v, 0.06), wax * 0.3)
    return scene


@family("pasta", angle=180)
def pasta(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture, 0.05, 0.5)
    dough = contrast(style, scene.ground[0, 0, 0], 0.3)
    radius, width = style.uniform(0.45, 0.6), style.uniform(0.25, 0.4)
    bow = np.maximum(ring(x, y - 0.2, radius, width), y - 0.2 + style.uniform(-0.1, 0.2) * np.abs(x))
    across = (np.hypot(x, y - 0.2) - radius) / width
    light = 0.75 + 0.4 * np.cos(across * 2.6) + 0.08 * np.sin(across * style.uniform(20, 40))
    scene.paint(bow, shaded(dough, light), 1)
    return scene


@family("ball bearing", angle=180)
def bearing(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    metal = contrast(style, scene.ground[0, 0, 0], 0.2)
    sheen = 1 + 0.15 * np.cos(2 * np.arctan2(y, x))
    scene.paint(disc(x, y, 0.84), shaded(metal, sheen), 1)
    scene.paint(disc(x, y, 0.68), metal * 0.3)
    count = int(style.integers(7, 12))
    ball = metal * np.float32(1.1)
    for number in range(count):
        a = 2 * np.pi * number / count
        u, v = x - 0.52 * np.cos(a), y - 0.52 * np.sin(a)
        scene.paint(disc(u, v, 0.125), shaded(ball, 1 - 2.5 * np.hypot(u + 0.04, v + 0.04)), 2 + number)
    scene.paint(disc(x, y, 0.37), shaded(metal, sheen), 50)
    scene.paint(disc(x, y, style.uniform(0.18, 0.28)), scene.ground)
    return scene


@family("wheel", angle=180)
def wheel(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    tyre = tint(style, 0.05, 0.2, 0.2)
    rim = contrast(style, tyre, 0.4)
    scene.paint(disc(x, y, 0.85), tyre, 1)
    scene.paint(disc(x, y, 0.62), rim * 0.35, 2)
    count = int(style.integers(4, 9))
    phase = np.arctan2(y, x) * (count / (2 * np.pi))
    spoke = np.abs(phase - np.round(phase)) * 2 * np.pi / count * np.hypot(x, y) - style.uniform(0.05, 0.09)
    number = (3 + np.round(phase).astype(np.int32) % count).astype(np.int16)
    scene.paint(np.maximum(spoke, disc(x, y, 0.6)), shaded(rim, 1 + 0.1 * x), number)
    scene.paint(ring(x, y, 0.6, 0.08), shaded(rim, 1 - 0.1 * y))
    scene.paint(disc(x, y, 0.17), rim * 0.8, 40)
    return scene


@family("knob", angle=10)
def knob(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    body = contrast(style, scene.ground[0, 0, 0], 0.2)
    lobes, depth = int(style.integers(3, 9)), style.uniform(0.05, 0.14)
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    scene.paint(r - 0.66 - depth * np.cos(angle * lobes), shaded(body, 0.8 + 0.2 * np.cos(angle * lobes)), 1)
    scene.paint(disc(x, y, 0.45), shaded(body, 1.1 + 0.15 * x))
    a = style.uniform(0, 6)
    scene.paint(
        segment(x, y, 0.15 * np.cos(a), 0.15 * np.sin(a), 0.4 * np.cos(a), 0.4 * np.sin(a), 0.07),
        contrast(style, body, 0.4),
        2,
    )
    return scene


@family("grille", shift=0.06)
def grille(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    plate = 1 + 0.03 * fbm(picture, len(x), x.shape[-1], 5)
    scene = drawing(shaded(tint(style, 0.3, 0.85, 0.3), plate))
    period, half = style.uniform(0.2, 0.34), style.uniform(0.25, 0.4)
    columns = int(style.integers(1, 3))
    j, v = cells(y, period)
    for column in range(columns):
        u = x - (column - (columns - 1) / 2) * 0.95
        slot = box(u, v * period, half if columns > 1 else 0.75, period * 0.22, 0.03)
        slot = np.where(np.abs(y) < 0.85, slot, 1.0).astype(np.float32)
        scene.paint(slot, tint(style, 0.02, 0.2), (1 + (j * 2 + column) % 97).astype(np.int16))
    return scene


@family("power socket", angle=4)
def socket(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture, 0.3, 0.95)
    body = contrast(style, scene.ground[0, 0, 0], 0.12)
    scene.paint(box(x, y, 0.8, 0.8, 0.12), shaded(body, 1 + 0.06 * x), 1)
    scene.paint(disc(x, y, 0.6), shaded(body, 0.82 - 0.1 * y))
    count = int(style.integers(2, 4))
    for number in range(count):
        a = 2 * np.pi * number / count + np.pi * (count == 3) / 2
        scene.paint(disc(x, y, 0.1, 0.3 * np.cos(a), 0.3 * np.sin(a)), body * 0.15, 2 + number)
    return scene


@family("ruler", angle=3)
def ruler(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    body = contrast(style, scene.ground[0, 0, 0], 0.2)
    ink = contrast(style, body, 0.4)
    scene.paint(box(x, y, 1.5, 0.5), body, 1)
    period = style.uniform(0.12, 0.2)
    i, u = cells(x, period)
    length = np.where(i % 5 == 0, 0.3, 0.15)
    tick = np.maximum(np.abs(u * period) - 0.025, np.maximum(-0.5 - y, y + 0.5 - length)).astype(np.float32)
    scene.paint(tick, ink, (2 + i % 90).astype(np.int16))
    _print(scene, x, y - 0.2, style, 0.3, ink, 3)
    return scene


@family("cookie", angle=180)
def cookie(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    size = x.shape[-1]
    dough = tint(style, 0.45, 0.75, 0.8)
    edge = 0.02 * noise(picture, len(x), size, 10)
    scene.paint(disc(x, y, 0.76) + edge, shaded(dough, 1 + 0.07 * fbm(picture, len(x), size, 12)), 1)
    for number in range(int(style.integers(5, 11))):
        a, r = picture.uniform(0, 6.3, (len(x), 1, 1)), picture.uniform(0.1, 0.6, (len(x), 1, 1))
        d = disc(x, y, 0.1, r * np.cos(a), r * np.sin(a)).astype(np.float32)
        scene.paint(d, dough * np.float32(0.35), 2 + number)
    return scene


@family("lens", angle=10)
def lens(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene = _table(x, style, picture)
    mount = contrast(style, scene.ground[0, 0, 0], 0.2)
    scene.paint(disc(x, y, 0.84), mount, 1)
    glass = tint(style, 0.1, 0.4, 1.0)
    radius = 0.7
    for number in range(int(style.integers(2, 5))):
        scene.paint(disc(x, y, radius), shaded(glass, style.uniform(0.5, 1.4) + 0.3 * y), 2 + number)
        radius -= style.uniform(0.1, 0.18)
    scene.paint(disc(x, y, 0.08, -0.25, -0.3), np.full(3, 0.95, np.float32))
    return scene


def _cloth(
    x: Field,
    y: Field,
    style: Generator,
    picture: Generator,
    over: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Drawing:
    period = style.uniform(0.1, 0.28)
    warp, weft = tint(style), tint(style)
    sway = style.uniform(0, 0.02)
    x = x + sway * noise(picture, len(x), x.shape[-1], 4)
    i, u = cells(x, period)
    j, v = cells(y, period)
    light_warp = 0.55 + 0.5 * np.cos(np.pi * u) * (0.6 + 0.4 * np.cos(np.pi * v))
    light_weft = 0.55 + 0.5 * np.cos(np.pi * v) * (0.6 + 0.4 * np.cos(np.pi * u))
    colour = np.where(over(i, j)[..., None], shaded(warp, light_warp), shaded(weft, light_weft))
    return drawing(shaded(colour, _fine(x, picture, 0.05)))


def _masonry(
    x: Field, y: Field, style: Generator, picture: Generator, width: float, height: float, offset: float
) -> Drawing:
    """Rows of rectangular stones in mortar, every other row pushed by `offset` of a stone."""
    size = x.shape[-1]
    surface = drawing(shaded(tint(style, 0.2, 0.85, 0.2), _fine(x, picture, 0.05)))
    body = contrast(style, surface.ground[0, 0, 0], 0.15)
    rough = style.uniform(0.0, 0.08) * fbm(picture, len(x), size, 8)
    j, v = cells(y, height)
    i, u = cells(x + (j % 2) * np.float32(offset * width), width)
    light = 1 + style.uniform(0, 0.35) * (chance(i, j, _salt(picture)) - 0.5) + rough
    joint = style.uniform(0.015, 0.05)
    stone = box(u * np.float32(width), v * np.float32(height), width / 2 - joint, height / 2 - joint, 0.02)
    surface.paint(stone, shaded(body, light), (1 + (i * 7 + j * 13) % 97).astype(np.int16))
    return surface


def _print(
    scene: Drawing, x: Field, y: Field, style: Generator, height: float, ink: Colour, count: int = 1, part: int = 30
) -> None:
    """`count` made-up letters, each of strokes on a grid of 3 by 4, centred on the origin; each a part."""
    for number in range(count):
        u = x - (number - (count - 1) / 2) * height * 0.75
        shape = np.full(x.shape, 9.0, np.float32)
        points = style.integers(0, 3, (5, 2)) * np.array([1, 1.5]) - np.array([1.0, 1.5])
        for a, b in itertools.pairwise(points):
            ax, ay, bx, by = (float(value) * height / 3.2 for value in (*a, *b))
            shape = np.minimum(shape, segment(u, y, ax, ay, bx, by, height * 0.14))
        scene.paint(shape, ink, part + number)


def pose(kind: Family, count: int, size: int, style: Generator, picture: Generator) -> tuple[Field, Field]:
    """Coordinates of `count` pictures, each seen from a little elsewhere; how much is the category's own."""
    x, y = grid(size)
    strict = style.uniform(0.3, 1.0)
    angle = np.radians(kind.angle) * (1.0 if kind.angle >= 90 else strict)
    x, y = turn(x[None], y[None], vary(picture, count, -angle, angle))
    scale = 1 + strict * vary(picture, count, -kind.zoom, kind.zoom)
    shift = strict * kind.shift
    return x * scale + vary(picture, count, -shift, shift), y * scale + vary(picture, count, -shift, shift)
