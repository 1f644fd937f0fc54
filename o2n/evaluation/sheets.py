"""Pictures of pictures in the style of the paper's figures 2 and 3, from what outcomes kept to be looked at."""

import base64
import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from o2n import images
from o2n.data.datasets.base import LabelledCategory, Sample
from o2n.evaluation.protocol import ALL_METHODS, OURS, Shown, UnitOutcome
from o2n.images import Picture
from o2n.report import overlay

SIDE, GAP, TITLE = 128, 6, 32


def maps_sheet(outcomes: Sequence[UnitOutcome], categories: Sequence[LabelledCategory]) -> bytes | None:
    """Figure 2: of each category a defective query, where the defect is, and the map of each method; a PNG.

    Each map is coloured from its own lowest to its own highest value: where, not how much.
    """
    titles = {one.method: one.title for one in outcomes if one.shown and one.shown[0].anomaly_map}
    methods = [name for name in ALL_METHODS if name in titles]
    rows = []
    for category in categories:
        queries = {sample.key: sample for sample in category.queries}
        of_method = {one.method: one.shown for one in outcomes if one.category == category.name and one.shown}
        for shown in of_method.get(OURS, []):
            picture = _square(queries[shown.key].read())
            maps = [_map(picture, shown.key, of_method.get(method, [])) for method in methods]
            rows.append([picture, _truth(queries[shown.key]), *maps])
    return grid(["query", "defect", *(titles[method] for method in methods)], rows) if rows else None


def counterparts_sheet(
    outcomes: Sequence[UnitOutcome], categories: Sequence[LabelledCategory], references: dict[str, Sample]
) -> bytes | None:
    """Figure 3: of each category a reference, a defective query, its normal counterpart, and the map; a PNG.

    Args: references: of each category's name one reference.
    """
    rows = []
    for category in categories:
        queries = {sample.key: sample for sample in category.queries}
        for one in outcomes:
            if one.category != category.name or one.method != OURS:
                continue
            for shown in one.shown:
                query = _square(queries[shown.key].read())
                redrawn = _square(images.decode(base64.b64decode(shown.counterpart or "")))
                reference = _square(references[category.name].read())
                rows.append([reference, query, redrawn, _map(query, shown.key, [shown])])
    return grid(["reference", "query", "counterpart", "anomaly map"], rows) if rows else None


def grid(titles: Sequence[str], rows: Sequence[Sequence[Picture | None]]) -> bytes:
    """Rows of pictures, uint8 (SIDE, SIDE, 3), under their titles; a PNG. Where there is none it stays white."""
    step = SIDE + GAP
    sheet = Image.new("RGB", (GAP + step * len(titles), TITLE + GAP + step * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, title in enumerate(titles):
        place = (GAP + step * column + SIDE // 2, TITLE // 2 + GAP // 2)
        draw.text(place, textwrap.fill(title, 20), "black", font, anchor="mm", align="center")
        for row, pictures in enumerate(rows):
            if (picture := pictures[column]) is not None:
                sheet.paste(Image.fromarray(picture), (GAP + step * column, TITLE + GAP + step * row))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _map(picture: Picture, key: str, shown: Sequence[Shown]) -> Picture | None:
    found = next((one.anomaly_map for one in shown if one.key == key), None)
    return None if found is None else overlay(picture, np.array(found, np.float32))


def _truth(query: Sample) -> Picture | None:
    if query.mask is None:
        return None
    return _square((query.mask()[..., None] * np.uint8(255)).repeat(3, axis=-1))


def _square(picture: Picture) -> Picture:
    return images.resize(picture, SIDE)
