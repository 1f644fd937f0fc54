"""Rows of scores -> what a run came to: counts and a histogram per category, as JSON and drawn for a terminal."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BINS = 20
_BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Tally:
    """What the rows of one category came to. scores: chunks of float64, of the pictures without an error."""

    pictures: int = 0
    anomalous: int = 0
    errors: int = 0
    scores: list[np.ndarray] = field(default_factory=list)
    threshold: float | None = None

    def histogram(self) -> dict[str, Any]:
        """counts: of the `BINS` even bins between the lowest and the highest score, whose ends are `edges`."""
        scores = np.concatenate(self.scores) if self.scores else np.empty(0)
        if not scores.size:
            return {"edges": [], "counts": []}
        counts, edges = np.histogram(scores, BINS)
        return {"edges": [round(float(edge), 4) for edge in edges], "counts": counts.tolist()}

    def report(self) -> dict[str, Any]:
        return {
            "pictures": self.pictures,
            "anomalous": self.anomalous,
            "errors": self.errors,
            "threshold": self.threshold,
            "histogram": self.histogram(),
        }


def tally(tables: Iterable[pa.Table]) -> dict[str, Tally]:
    """Count rows as in `run.SCHEMA` by category, sorted by name; rows without one are under ""."""
    found: dict[str, Tally] = {}
    for table in tables:
        names = pc.fill_null(table["category"], "")
        for name in pc.unique(names).to_pylist():
            rows = table.filter(pc.equal(names, name))
            one = found.setdefault(name, Tally())
            scores = rows["score"].drop_null().to_numpy()
            one.pictures += rows.num_rows
            one.anomalous += pc.sum(rows["is_anomalous"]).as_py() or 0
            one.errors += rows.num_rows - len(scores)
            if len(scores):
                one.scores.append(scores)
                one.threshold = pc.max(rows["threshold"]).as_py()
    return dict(sorted(found.items()))


def drawn(tallies: dict[str, Tally]) -> str:
    """A table for a terminal, one line per category; bars are as high as the logarithm of their counts, so that a
    handful of anomalous pictures shows beside a thousand good ones."""
    width = max(8, *(len(name) for name in tallies))
    lines = [f"{'category':{width}} {'pictures':>10} {'anomalous':>10} {'errors':>7}   scores, and the threshold"]
    for name, one in tallies.items():
        line = f"{name or '(none)':{width}} {one.pictures:>10,} {one.anomalous:>10,} {one.errors:>7,}"
        histogram = one.histogram()
        if histogram["counts"]:
            edges = histogram["edges"]
            line += f"   {edges[0]:.2f} {_bars(histogram['counts'])} {edges[-1]:.2f}, {one.threshold:.2f}"
        lines.append(line)
    return "\n".join(lines)


def _bars(counts: list[int]) -> str:
    heights = np.log1p(counts)
    return "".join(
        _BARS[int(height / heights.max() * (len(_BARS) - 1))] if count else "·"
        for count, height in zip(counts, heights, strict=True)
    )
