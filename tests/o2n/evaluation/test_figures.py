"""The file of figures: what is read of it is what was written, and it is never lost to another measurement."""

from pathlib import Path

import pytest

from o2n.errors import O2NError
from o2n.evaluation.figures import Figures, Measured, read_figures
from o2n.evaluation.judge import Judgement
from o2n.evaluation.speed import Speed
from o2n.profiles import TINY

MEASURED = Measured.here(TINY)
FIGURES = Figures(
    measured=MEASURED,
    seconds=Speed(onboarding=12.5, alone=0.25, in_batch=0.125),
    judgements=[Judgement("group", "name", 1, 2, "a" * 64, {"fused": 0.1 + 0.2, "S_P": 1.0})],
)


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    assert read_figures(file, MEASURED) is None
    FIGURES.write(file)
    assert read_figures(file, MEASURED) == FIGURES
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("profile", TINY.model_copy(update={"alpha": TINY.alpha + 1})),
        ("foundation", "f" * 64),
        ("machine", "another processor"),
        ("revision", MEASURED.revision + 1),
    ],
)
def test_figures_of_something_else_are_an_error_and_stay(tmp_path: Path, name: str, other: object) -> None:
    file = tmp_path / "figures.json"
    FIGURES.write(file)
    before = file.read_bytes()
    with pytest.raises(O2NError, match=rf"figures\.json holds figures of another {name}: give another --json"):
        read_figures(file, MEASURED.model_copy(update={name: other}))
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{}", '{"seconds": 3}', "no JSON at all"])
def test_a_file_of_no_figures_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "figures.json"
    file.write_text(content)
    with pytest.raises(O2NError, match=r"figures\.json holds no figures \(.+\): give another --json"):
        read_figures(file, MEASURED)
    with pytest.raises(O2NError, match="holds no figures"):
        read_figures(tmp_path, MEASURED)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(O2NError, match=r"figures\.json cannot be written \(.+\): make room, or give another --json"):
        FIGURES.write(tmp_path / "taken" / "figures.json")
