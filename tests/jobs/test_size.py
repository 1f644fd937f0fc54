"""The sizing page, made again from the committed measurements."""

from pathlib import Path

from click.testing import CliRunner

from jobs.size import CATEGORIES, PICTURES, main

PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = page.split(heading)[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def test_the_page_has_every_case_and_more_of_anything_never_needs_less() -> None:
    done = CliRunner().invoke(main, [], catch_exceptions=False)
    assert done.exit_code == 0
    for heading, numbers in (("## tiny, on cores", slice(2, 7)), ("## paper, on H200", slice(2, 9))):
        found = rows(done.stdout, heading)
        assert len(found) == len(CATEGORIES) * len(PICTURES) == len(rows(PAGE.read_text(), heading))
        needs = [[float(cell.replace(",", "")) for cell in row[numbers]] for row in found]
        for index, need in enumerate(needs):
            if (index + 1) % len(PICTURES):
                assert all(less <= more for less, more in zip(need, needs[index + 1], strict=True))
            if index + len(PICTURES) < len(needs):
                assert all(less <= more for less, more in zip(need, needs[index + len(PICTURES)], strict=True))
        assert all(row[-1] for row in found)
    assert "GPUs are reckoned from one" in done.stdout
