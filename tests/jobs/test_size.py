"""The sizing page, made again from the committed measurements."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.size import CATEGORIES, PICTURES, main

NUMBER = re.compile(r"\d[\d,.]*")
PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, its head first."""
    lines = page.split(heading)[1].split("\n## ")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [head, *rows]


@pytest.mark.parametrize("heading", ["## tiny, on cores", "## paper, on H200", "## Onboarding"])
def test_the_committed_page_has_the_tables_of_the_one_that_is_made(heading: str) -> None:
    done = CliRunner().invoke(main, [], catch_exceptions=False)
    made, committed = table(done.stdout, heading), table(PAGE.read_text(), heading)
    assert made[0] == committed[0]
    assert len(made) == len(committed)
    for row, other in zip(made[1:], committed[1:], strict=True):
        for cell, known in zip(row, other, strict=True):
            assert NUMBER.split(cell) == NUMBER.split(known)
            found, expected = ([float(one.replace(",", "")) for one in NUMBER.findall(text)] for text in (cell, known))
            assert found == pytest.approx(expected, rel=0.02)


def test_the_page_has_every_case_and_more_of_anything_never_needs_less() -> None:
    done = CliRunner().invoke(main, [], catch_exceptions=False)
    assert done.exit_code == 0
    for heading, numbers in (("## tiny, on cores", slice(2, 7)), ("## paper, on H200", slice(2, 9))):
        _, *found = table(done.stdout, heading)
        assert len(found) == len(CATEGORIES) * len(PICTURES)
        needs = [[float(cell.replace(",", "")) for cell in row[numbers]] for row in found]
        for index, need in enumerate(needs):
            if (index + 1) % len(PICTURES):
                assert all(less <= more for less, more in zip(need, needs[index + 1], strict=True))
            if index + len(PICTURES) < len(needs):
                assert all(less <= more for less, more in zip(need, needs[index + len(PICTURES)], strict=True))
        assert all(row[-1] for row in found)
    assert "GPUs are reckoned from one" in done.stdout
