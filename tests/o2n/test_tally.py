"""Rows of scores -> counts, histograms, and lines for a terminal."""

import pyarrow as pa

from o2n.offline_run import SCHEMA
from o2n.tally import BINS, drawn, tally


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def scored(category: str, score: float, threshold: float = 2.0) -> dict:
    return {"category": category, "score": score, "threshold": threshold, "is_anomalous": score > threshold}


def test_rows_are_counted_by_category_over_all_tables() -> None:
    found = tally(
        [
            table(scored("nuts", 1.0), scored("bolts", 0.5), {"category": "bolts", "error": "is empty"}),
            table(*(scored("bolts", 0.5 + index / 10) for index in range(1, 21)), {"error": "no category"}),
        ]
    )
    assert list(found) == ["", "bolts", "nuts"]
    assert (found["bolts"].pictures, found["bolts"].anomalous, found["bolts"].errors) == (22, 5, 1)
    assert (found[""].pictures, found[""].errors) == (1, 1)
    histogram = found["bolts"].histogram()
    assert len(histogram["counts"]) == BINS == len(histogram["edges"]) - 1
    assert sum(histogram["counts"]) == 21
    assert (histogram["edges"][0], histogram["edges"][-1]) == (0.5, 2.5)
    assert found[""].report()["histogram"] == {"edges": [], "counts": []}


def test_a_terminal_shows_the_few_beside_the_many() -> None:
    many = [scored("bolts", 0.1)] * 1000 + [scored("bolts", 9.0)] * 2
    lines = drawn(tally([table(*many, scored("a-much-longer-name", 1.0))])).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("bolts                   1,002          2       0   0.10 █")
    bars = lines[2].split()[5]
    assert bars == "█" + "·" * (BINS - 2) + "▂"
    assert lines[2].endswith("9.00, 2.00")
