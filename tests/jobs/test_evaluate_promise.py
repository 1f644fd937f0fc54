"""The table of promised rates: one row for each way to calibrate and each rate."""

import numpy as np

from jobs.evaluate_promise import RATES, WAYS, table
from o2n.evaluation.promise import NormalScores


def rows(references: list[float]) -> list[list[str]]:
    others = np.random.default_rng(0).normal(size=150).tolist()
    lines = table([NormalScores("nut", draw, references, others) for draw in range(2)]).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_there_is_a_row_for_each_way_and_each_rate() -> None:
    found = rows([0.0, 1.0, 2.0, 0.5])
    assert len(found) == len(WAYS) * len(RATES)
    assert found[0][:4] == ["0", "too", "5%", "20.0%"]
    assert found[3 * len(RATES)][:4] == ["60", "no", "5%", "5.0%"]


def test_what_is_realised_is_what_scores_say() -> None:
    assert rows([99.0] * 4)[0][4] == "0.0% ± 0.0"
    assert rows([-99.0] * 4)[0][4] == "100.0% ± 0.0"
    promised = dict(zip(("5%", "10%", "20%"), rows([0.0] * 4)[9:12], strict=True))
    for requested, row in promised.items():
        assert float(row[4].split("%")[0]) <= float(requested.strip("%")) + 0.5
