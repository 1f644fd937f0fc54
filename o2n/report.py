"""Scores -> what people look at: heat maps, overlays, a table of AUROCs, a page. Needs torch only for the AUROCs."""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from o2n.calibration import Decision
from o2n.errors import O2NError
from o2n.fusion import Score, upsample
from o2n.images import Picture, fit

MAX_CARDS = 60
THUMBNAIL = 256

# Dark violet over red to pale yellow, even in lightness, so that it reads in grey and for the colour-blind.
_COLOURS = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ]
)


@dataclass(frozen=True)
class Card:
    """One scored picture. label: 'good', the kind of its defect, or None where nobody knows; decision: None where none
    was made."""

    category: str
    path: str
    label: str | None
    query: Picture
    score: Score
    decision: Decision | None = None


@dataclass(frozen=True)
class AurocRow:
    """Image AUROC in [0, 1] of every branch and of their fusion; None without both good and defective pictures."""

    category: str
    good: int
    defective: int
    s_p: float | None
    s_n: float | None
    s_text: float | None
    fused: float | None


def heat_map(anomaly_map: NDArray[np.float32], height: int, width: int, low: float, high: float) -> Picture:
    """A map (g, g) in colours, uint8 (height, width, 3): `low` and below is dark, `high` and above is pale yellow."""
    place = np.clip((upsample(anomaly_map, height, width) - low) / max(high - low, 1e-12), 0, 1) * (len(_COLOURS) - 1)
    stops = np.arange(len(_COLOURS))
    return np.stack([np.interp(place, stops, _COLOURS[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def overlay(
    picture: Picture, anomaly_map: NDArray[np.float32], low: float | None = None, high: float | None = None
) -> Picture:
    """The picture, greyed, with its heat map on it; what is hotter covers more.

    Args: low, high: the ends of the scale; by default the map's own, which says where, not how much.
    Returns: uint8 (H, W, 3), as large as `picture`.
    """
    low = float(anomaly_map.min()) if low is None else low
    high = float(anomaly_map.max()) if high is None else high
    height, width = picture.shape[:2]
    heat = np.clip((upsample(anomaly_map, height, width) - low) / max(high - low, 1e-12), 0, 1)[..., None]
    grey = picture.mean(axis=-1, keepdims=True)
    opacity = 0.15 + 0.6 * heat
    return (grey * (1 - opacity) + heat_map(anomaly_map, height, width, low, high) * opacity).round().astype(np.uint8)


def auroc_table(scored: Sequence[Card]) -> list[AurocRow]:
    """One row per category, by name, and where there are several a last row with their mean."""
    rows = [_auroc_row(category, [s for s in scored if s.category == category]) for category in _categories(scored)]
    if len(rows) < 2:
        return rows

    def mean(value: Callable[[AurocRow], float | None]) -> float | None:
        values = [found for row in rows if (found := value(row)) is not None]
        return sum(values) / len(values) if values else None

    return [
        *rows,
        AurocRow(
            "mean",
            sum(row.good for row in rows),
            sum(row.defective for row in rows),
            mean(lambda row: row.s_p),
            mean(lambda row: row.s_n),
            mean(lambda row: row.s_text),
            mean(lambda row: row.fused),
        ),
    ]


def write_report(
    path: Path,
    scored: Sequence[Card],
    title: str,
    notes: Sequence[str] = (),
    curl: str | None = None,
    refused: Sequence[str] = (),
) -> None:
    """One self-contained HTML page: the table, and for every picture query, counterpart, heat map and scores.

    Of each category the `MAX_CARDS` highest scores are shown.

    Args: refused: why pictures could not be scored, one line for each, which names it.

    Raises:
        O2NError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        notes=notes,
        curl=curl,
        table=[row for row in auroc_table(scored) if row.fused is not None],
        categories=[_section(name, [s for s in scored if s.category == name]) for name in _categories(scored)],
        refused=refused,
    )
    with _told(path):
        path.write_text(page, encoding="utf-8", errors="replace")  # names on old file systems are none


def check_report(path: Path) -> None:
    """Refuse a report's file that cannot be written, before there is anything to write; one that is not there yet is
    made, empty. Raises as `write_report`."""
    with _told(path):
        path.open("ab").close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever keeps a report from being written, in one line; its folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise O2NError(f"report {path} cannot be written ({error.strerror}): give another path") from None


def _categories(scored: Sequence[Card]) -> list[str]:
    return sorted({s.category for s in scored})


def _auroc_row(category: str, scored: list[Card]) -> AurocRow:
    defective = [s.label != "good" for s in scored if s.label is not None]
    known = [s.score for s in scored if s.label is not None]
    return AurocRow(
        category,
        good=defective.count(False),
        defective=defective.count(True),
        s_p=_auroc([score.s_p for score in known], defective),
        s_n=_auroc([score.s_n for score in known], defective),
        s_text=_auroc([score.s_text for score in known], defective),
        fused=_auroc([score.score for score in known], defective),
    )


def _auroc(scores: list[float], defective: list[bool]) -> float | None:
    if len(set(defective)) < 2:
        return None
    import torch
    from torchmetrics.functional.classification import binary_auroc

    # torchmetrics sends scores outside [0, 1] through a sigmoid, in which float32 loses small differences: rank them.
    ranks = np.unique(scores, return_inverse=True)[1] / len(scores)
    return float(binary_auroc(torch.from_numpy(ranks), torch.tensor(defective, dtype=torch.long)))


def _section(category: str, scored: list[Card]) -> dict[str, object]:
    shown = sorted(scored, key=lambda s: s.score.score, reverse=True)[:MAX_CARDS]
    values = np.concatenate([s.score.anomaly_map.ravel() for s in scored])
    low, high = float(np.median(values)), float(values.max())
    # Bars run from the least to the most anomalous of the category: values may lie on either side of 0.
    of_all = {name: [getattr(s.score, name) for s in scored] for name in ("s_p", "s_n", "s_text", "score")}
    span = {name: (min(values), max(max(values) - min(values), 1e-12)) for name, values in of_all.items()}
    return {
        "name": category,
        "version": scored[0].score.ref.version,
        "left_out": len(scored) - len(shown),
        "cards": [
            {
                "path": s.path,
                "label": s.label,
                "score": s.score.score,
                "decision": s.decision,
                "bars": [
                    (title, getattr(s.score, name), (getattr(s.score, name) - span[name][0]) / span[name][1])
                    for title, name in (("S_P", "s_p"), ("S_N", "s_n"), ("S_text", "s_text"), ("fused", "score"))
                ],
                "query": _data_url(fit(s.query, THUMBNAIL)),
                "counterpart": _data_url(s.score.counterpart),
                "overlay": _data_url(overlay(fit(s.query, THUMBNAIL), s.score.anomaly_map, low, high)),
            }
            for s in shown
        ],
    }


def _data_url(picture: Picture) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
