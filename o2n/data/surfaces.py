"""Families of surfaces: cloth, stone, metal, wood, tiles, sheets."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from o2n.data.families import anew, family, grained, new_salt, plain, table
from o2n.data.fields import (
    Drawing,
    Field,
    bilinear,
    box,
    cells,
    chance,
    contrast,
    disc,
    drawing,
    fbm,
    mix,
    noise,
    polygon,
    shaded,
    tint,
    turn,
    worley,
)


@family("woven fabric", shift=0.5)
def weave(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    return _cloth(x, y, style, picture, lambda i, j: (i + j) % 2 == 0)


@family("twill fabric", shift=0.5)
def twill(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    width = int(style.integers(3, 6))
    return _cloth(x, y, style, picture, lambda i, j: (i + j) % width < width // 2)


@family("tartan cloth", shift=0.5)
def tartan(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = anew(x, y, picture, 0.3)
    colours = [tint(style, 0.1, 0.9, 0.9) for _ in range(3)]
    salt, period = new_salt(style), style.uniform(0.12, 0.3)
    i, _ = cells(x, period)
    j, _ = cells(y, period)
    warp, weft = chance(i % 5, 0 * i, salt), chance(j % 5, 0 * j, salt)
    colour = mix(plain(x, colours[0]), colours[1], 0.55 * (warp > 0.5))
    colour = mix(colour, colours[2], 0.55 * (weft > 0.5))
    return drawing(shaded(colour, grained(x, picture, 0.05)))


@family("knitted wool", shift=0.5)
def knit(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = anew(x, y, picture)
    period = style.uniform(0.16, 0.32)
    _, u = cells(x, period)
    slanted = y + np.abs(u) * period * style.uniform(0.6, 1.2)
    _, v = cells(slanted, period * style.uniform(0.5, 0.9))
    shade = 0.45 + 0.55 * np.cos(np.pi * v) * (0.4 + 0.6 * np.sin(np.pi * np.abs(u * 2)))
    return drawing(shaded(tint(style, 0.3, 0.9), shade * grained(x, picture, 0.06)))


@family("carpet", angle=180, shift=0.5)
def carpet(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    tuft = noise(picture, len(x), size, int(style.integers(20, 44)))
    colour = mix(plain(x, tint(style)), tint(style), np.clip(0.5 + 0.6 * tuft, 0, 1))
    return drawing(shaded(colour, 1 + 0.12 * noise(picture, len(x), size, 60)))


@family("leather", angle=180, shift=0.5)
def leather(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = anew(x, y, picture)
    size = x.shape[-1]
    wobble = 0.05 * noise(picture, len(x), size, 12)
    first, second, owner = worley(x + wobble, y - wobble, style.uniform(0.12, 0.3), new_salt(style))
    crease = np.clip((second - first) * style.uniform(2, 5), 0, 1)
    light = 1 - style.uniform(0.25, 0.6) * (1 - crease) + 0.08 * (owner - 0.5)
    return drawing(shaded(tint(style, 0.2, 0.75, 0.8), light * grained(x, picture, 0.03)))


@family("wood", angle=3, shift=0.5)
def wood(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = anew(x, y, picture)
    size = x.shape[-1]
    wander = style.uniform(0.1, 0.5) * noise(picture, len(x), size, 3, 1) + 0.04 * noise(picture, len(x), size, 16, 3)
    rings = 0.5 + 0.5 * np.sin((x + wander) * style.uniform(12, 40))
    dark = tint(style, 0.15, 0.45, 0.7)
    colour = mix(plain(x, dark), dark + np.float32(style.uniform(0.12, 0.35)), rings ** style.uniform(0.5, 2))
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
    x, y = anew(x, y, picture)
    bent = x + style.uniform(0.3, 0.8) * fbm(picture, len(x), x.shape[-1], 3, 4) * 0.5
    vein = np.exp(-np.abs(np.sin(bent * style.uniform(2, 6))) * style.uniform(4, 12))
    base = tint(style, 0.15, 0.95, 0.4)
    colour = mix(plain(x, base), contrast(style, base), style.uniform(0.4, 0.9) * vein)
    return drawing(shaded(colour, 1 + 0.04 * fbm(picture, len(x), x.shape[-1], 6)))


@family("terrazzo", angle=180, shift=0.5)
def terrazzo(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = anew(x, y, picture)
    base = tint(style, 0.4, 0.9)
    picture_ = drawing(shaded(base, grained(x, picture, 0.03)))
    first, _, owner = worley(x, y, style.uniform(0.18, 0.4), new_salt(style))
    size = style.uniform(0.25, 0.42) + 0.15 * (owner - 0.5)
    for third in range(3):
        chip = np.where((owner * 3).astype(np.int16) == third, first - size, 1.0).astype(np.float32)
        picture_.paint(chip * 0.15, contrast(style, base, 0.1))
    return picture_


@family("gravel", angle=180, shift=0.5)
def gravel(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = anew(x, y, picture)
    wobble = 0.04 * noise(picture, len(x), x.shape[-1], 20)
    first, second, owner = worley(x + wobble, y - wobble, style.uniform(0.15, 0.4), new_salt(style))
    light = (0.65 + 0.6 * (owner - 0.5)) * np.clip((second - first) * 3, 0.15, 1) * (1.15 - 0.5 * first)
    return drawing(shaded(tint(style, 0.45, 0.95, 0.3), light * grained(x, picture, 0.05)))


@family("concrete", angle=180, shift=0.5)
def concrete(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = anew(x, y, picture)
    size = x.shape[-1]
    light = 1 + style.uniform(0.03, 0.1) * fbm(picture, len(x), size, 4, 4)
    first, _, owner = worley(x, y, 0.12, new_salt(style))
    pits = (owner < style.uniform(0.02, 0.12)) * np.clip(1 - first * 4, 0, 1)
    return drawing(shaded(tint(style, 0.35, 0.8, 0.15), light * (1 - 0.4 * pits) * grained(x, picture, 0.03)))


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
    joint = tint(style, 0.1, 0.9)
    surface = drawing(plain(x, joint))
    body = contrast(style, joint, 0.2)
    light = 1 + style.uniform(0, 0.2) * (chance(i, j, new_salt(picture)) - 0.5)
    surface.paint(tile, shaded(body, light * grained(x, picture, 0.02)), (1 + (i * 7 + j * 13) % 97).astype(np.int16))
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
    light = 0.85 + 0.35 * chance(i * 11 + strip, j * 7, new_salt(picture)) + 0.04 * np.sin(w * 20 + along * 6)
    gap = np.clip((0.5 - np.maximum(np.abs(w), np.abs(along))) * 14, 0.35, 1)
    surface = drawing(shaded(tint(style, 0.3, 0.65, 0.7), light * gap * grained(x, picture, 0.03)))
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
    surface, _ = table(x, style, picture, 0.02, 0.4)
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
    _, _, owner = worley(x, y, 0.4, new_salt(picture))
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
    x, y = anew(x, y, picture)
    first, second, owner = worley(x, y, style.uniform(0.08, 0.18), new_salt(style))
    light = 0.7 + 0.5 * owner - 0.5 * (owner > 0.93)
    return drawing(shaded(tint(style, 0.4, 0.7, 0.8), light * np.clip(0.7 + (second - first), 0, 1)))


@family("grass", angle=180, shift=0.5)
def grass(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    table = style.standard_normal((64, 64)).astype(np.float32)
    total = np.full(x.shape, -9.0, np.float32)
    fineness = style.uniform(6, 12)
    for _ in range(3):
        a, b = turn(*anew(x, y, picture, 5), style.uniform(-0.6, 0.6) + 0.4 * noise(picture, len(x), size, 4))
        total = np.maximum(total, bilinear(table, a * fineness * 2, b * fineness * 0.35))
    return drawing(shaded(tint(style, 0.35, 0.7, 0.8), np.clip(0.55 + 0.3 * total, 0.1, 1.6)))


@family("rippled glass", angle=180, shift=0.5)
def ripples(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    bent = style.uniform(0.05, 0.25) * noise(picture, len(x), size, 6)
    wave = np.sin((np.hypot(x + 2, y) + bent) * style.uniform(15, 35))
    return drawing(shaded(tint(style, 0.4, 0.85, 0.5), 1 + style.uniform(0.1, 0.25) * wave))


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
    return drawing(shaded(colour, grained(x, picture, 0.05)))


def _masonry(
    x: Field, y: Field, style: Generator, picture: Generator, width: float, height: float, offset: float
) -> Drawing:
    """Rows of rectangular stones in mortar, every other row pushed by `offset` of a stone."""
    size = x.shape[-1]
    mortar = tint(style, 0.2, 0.85, 0.2)
    surface = drawing(shaded(mortar, grained(x, picture, 0.05)))
    body = contrast(style, mortar, 0.15)
    rough = style.uniform(0.0, 0.08) * fbm(picture, len(x), size, 8)
    j, v = cells(y, height)
    i, u = cells(x + (j % 2) * np.float32(offset * width), width)
    light = 1 + style.uniform(0, 0.35) * (chance(i, j, new_salt(picture)) - 0.5) + rough
    joint = style.uniform(0.015, 0.05)
    stone = box(u * np.float32(width), v * np.float32(height), width / 2 - joint, height / 2 - joint, 0.02)
    surface.paint(stone, shaded(body, light), (1 + (i * 7 + j * 13) % 97).astype(np.int16))
    return surface
