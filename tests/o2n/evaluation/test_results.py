"""Files that people read: the same figures in each of them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from o2n.errors import O2NError
from o2n.evaluation.results import Report, Sheet, markdown, write
from o2n.evaluation.sheets import SIDE, grid
from o2n.evaluation.tables import Figure, Row, Table

TABLE = Table(
    "table-1-auroc",
    "Table 1 <b>",
    "A note.",
    ("data set", "shots", "PatchCore", "Ours", "lead"),
    (
        Row(("MVTec", "2"), (Figure(80, 1.25, 5, 85.8, 3.4), Figure(90, 2, 5), "+10.0")),
        Row(("MVTec", "4"), (None, Figure(91, None, 1), None)),
    ),
)


@pytest.fixture
def report() -> Report:
    sheet = Sheet("figure-2-mvtec.png", "Maps", grid(["query"], [[np.zeros((SIDE, SIDE, 3), np.uint8)]]))
    return Report("Evaluation of tiny", ("First & last",), (TABLE,), (sheet,), (("weights", "sha256 1234"),))


def test_markdown_marks_the_best_and_the_difference() -> None:
    lines = markdown(TABLE).splitlines()
    assert lines[2] == "| MVTec | 2 | 80.0 ± 1.2<br>paper 85.8 ± 3.4, **-5.8** | **90.0** ± 2.0 | +10.0 |"
    assert lines[3] == "| MVTec | 4 |  | 91.0 |  |"


def test_all_files(report: Report, tmp_path: Path) -> None:
    files = write(report, tmp_path / "out")
    assert all(file.is_file() for file in files)
    text = (tmp_path / "out" / "results.md").read_text()
    assert markdown(TABLE) in text
    assert "(results/figure-2-mvtec.png)" in text
    assert "sha256 1234" in text
    page = (tmp_path / "out" / "results.html").read_text()
    assert "Table 1 &lt;b&gt;" in page
    assert "First &amp; last" in page
    assert '<b class="down">-5.8</b>' in page
    assert page.count('class="mean best"') == 1
    assert "http" not in page
    assert page.count("±") == 3  # one draw has no deviation
    with (tmp_path / "out" / "results" / "table-1-auroc.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0] == {
        "data set": "MVTec",
        "shots": "2",
        "column": "PatchCore",
        "mean": "80.00",
        "deviation": "1.25",
        "draws": "5",
        "paper": "85.80",
        "paper, deviation": "3.40",
        "difference": "-5.80",
    }


def test_a_place_that_cannot_be_written_is_named(report: Report, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(O2NError, match="out cannot be written"):
        write(report, tmp_path / "out")
