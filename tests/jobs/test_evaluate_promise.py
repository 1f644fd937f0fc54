"""The table of promised rates: one row for each way to calibrate and each rate."""

import click
import numpy as np
import pytest
from click.testing import CliRunner

import jobs.evaluate_tiny
from jobs.evaluate_promise import RATES, WAYS, main, table
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


@pytest.mark.parametrize("command", [main, jobs.evaluate_tiny.main])
@pytest.mark.parametrize("options", [["--workers", "0"], ["--draws", "0"]])
def test_no_work_and_nobody_to_do_it_are_refused(command: click.Command, options: list[str]) -> None:
    done = CliRunner().invoke(command, options)
    assert done.exit_code == 2
    assert f"'{options[0]}': 0 is not in the range x>=1" in done.output


def test_an_unknown_family_is_refused_before_any_work() -> None:
    done = CliRunner().invoke(main, ["--families", "nut,nope"])
    assert done.exit_code == 2
    assert "nope unknown: choose from" in done.output
