"""The procedural families that no model was trained on, as a data set: nothing on disk, each picture drawn anew.

Queries are those that `tasks.families` asks: unseen families with unseen defects.
"""

import functools
from functools import partial
from pathlib import Path

from o2n.data.datasets.base import GOOD, DataSet, LabelledCategory, Mask, Sample
from o2n.data.defects import EVALUATION_DEFECTS
from o2n.data.procedural import EVALUATION, Category, Pictures, draw
from o2n.images import Picture

STYLE = 2026  # the category judged in each family
NORMALS = 64
EACH = 30  # queries of each sort
_NORMAL_SEED, _QUERY_SEED = 1 << 22, 1 << 20
# Raised when families are drawn otherwise: outcomes are kept under the names of the pictures they were made on.
_DRAWN = 2


def _load(_: Path) -> list[LabelledCategory]:
    return [
        LabelledCategory(
            family,
            Category(family, STYLE).word,
            tuple(Sample(f"normal#{row}@{_DRAWN}", GOOD, partial(_normal, family, row)) for row in range(NORMALS)),
            tuple(_query(family, row, kind) for row, kind in enumerate(_queries(family).kinds)),
        )
        for family in EVALUATION
    ]


def _query(family: str, row: int, kind: str) -> Sample:
    return Sample(
        f"query#{row}@{_DRAWN}",
        kind or GOOD,
        partial(_query_picture, family, row),
        partial(_mask, family, row) if kind else None,
    )


@functools.lru_cache(maxsize=16)
def _normals(family: str) -> Pictures:
    return draw(Category(family, STYLE), NORMALS, 0, _NORMAL_SEED)


@functools.lru_cache(maxsize=16)
def _queries(family: str) -> Pictures:
    return draw(Category(family, STYLE), EACH, EACH, _QUERY_SEED, defects=EVALUATION_DEFECTS)


def _normal(family: str, row: int) -> Picture:
    return _normals(family).pictures[row]


def _query_picture(family: str, row: int) -> Picture:
    return _queries(family).pictures[row]


def _mask(family: str, row: int) -> Mask:
    return _queries(family).masks[row]


FAMILIES = DataSet("families", "procedural families, held out", "procedural", _load)
