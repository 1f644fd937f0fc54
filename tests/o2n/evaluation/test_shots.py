"""Draws: the same for everybody, nested, written down, and never a query."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o2n.data.datasets.base import GOOD, LabelledCategory, Sample
from o2n.errors import DataSetError
from o2n.evaluation.shots import capped, draw_shots, kept_draw


def sample(key: str, kind: str = GOOD) -> Sample:
    return Sample(key, kind, nothing)


def nothing() -> np.ndarray:
    return np.zeros((16, 16, 3), np.uint8)


def category(normals: int = 12, good: int = 6, bad: int = 6) -> LabelledCategory:
    return LabelledCategory(
        "bolt",
        "bolt",
        tuple(sample(f"train/{number}") for number in range(normals)),
        tuple(sample(f"test/{n}", "crack" if n >= good else GOOD) for n in range(good + bad)),
    )


def test_fewer_shots_are_the_first_of_more() -> None:
    draws = [draw_shots("set", category(), number, 8) for number in range(5)]
    assert len({draw.references for draw in draws}) == 5
    for draw in draws:
        assert len(set(draw.references)) == 8
        few, many = draw.of(category(), 2), draw.of(category(), 8)
        assert many[:2] == few
        assert draw_shots("set", category(), draw.number, 4).references == draw.references[:4]
    assert draw_shots("other", category(), 0, 8).references != draws[0].references


def test_a_draw_is_kept_and_its_file_rules(tmp_path: Path) -> None:
    made = kept_draw(tmp_path, "set", category(), 3, 4)
    file = tmp_path / "set" / "bolt-3.json"
    assert json.loads(file.read_text())["references"] == list(made.references)
    assert kept_draw(tmp_path, "set", category(), 3, 8).references[:4] == made.references
    own = made.model_copy(update={"references": tuple(f"train/{number}" for number in range(8))})
    file.write_text(own.model_dump_json())
    assert kept_draw(tmp_path, "set", category(), 3, 8) == own
    shorter = own.model_copy(update={"references": own.references[:4]}).model_dump_json()
    file.write_text(shorter)
    assert kept_draw(tmp_path, "set", category(), 3, 2).references == own.references[:4]
    with pytest.raises(DataSetError, match=r"has 4 references, 8 are asked for: add some or ask for fewer"):
        kept_draw(tmp_path, "set", category(), 3, 8)
    assert file.read_text() == shorter
    file.write_text(own.model_dump_json().replace("train/7", "train/0"))
    with pytest.raises(DataSetError, match=r"is no draw .*train/0 stands there twice.*: delete or mend it"):
        kept_draw(tmp_path, "set", category(), 3, 2)
    file.write_text("{}")
    with pytest.raises(DataSetError, match=r"bolt-3.json: is no draw .*: delete or mend it"):
        kept_draw(tmp_path, "set", category(), 3, 8)


def test_a_query_or_a_stranger_among_the_references_is_refused() -> None:
    draw = draw_shots("set", category(), 0, 4)
    with pytest.raises(DataSetError, match="test/1 is a query too"):
        draw.model_copy(update={"references": ("train/0", "test/1")}).of(category(), 2)
    with pytest.raises(DataSetError, match="elsewhere/1 is not among the good pictures"):
        draw.model_copy(update={"references": ("train/0", "elsewhere/1")}).of(category(), 2)


def test_more_shots_than_good_pictures_are_refused() -> None:
    with pytest.raises(DataSetError, match=r"set/bolt: 12 good pictures to draw from, 16 are asked for"):
        draw_shots("set", category(), 0, 16)


@given(good=st.integers(1, 60), bad=st.integers(1, 60), most=st.integers(8, 80))
def test_a_cap_keeps_both_kinds(good: int, bad: int, most: int) -> None:
    queries = category(1, good, bad).queries
    kept = capped(queries, most, "set/bolt")
    assert len(kept) == min(most, len(queries))
    assert set(kept) <= set(queries)
    assert [one for one in queries if one in kept] == list(kept)
    anomalous = sum(one.anomalous for one in kept)
    assert anomalous >= min(bad, most // 4)
    assert len(kept) - anomalous >= min(good, most // 4)
    assert capped(queries, most, "set/bolt") == kept


def test_a_cap_keeps_the_proportion_where_it_can() -> None:
    kept = capped(category(1, 100, 50).queries, 30, "set/bolt")
    assert sum(one.anomalous for one in kept) == 10
    assert capped(kept, None, "set/bolt") == kept
