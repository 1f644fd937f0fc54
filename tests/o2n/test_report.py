"""Heat maps, the AUROC table, and the page in a real browser's eyes (its HTML parsed)."""

import base64
import dataclasses
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from o2n.calibration import Calibration, decide
from o2n.category import VersionRef
from o2n.errors import O2NError
from o2n.fusion import Score
from o2n.images import decode
from o2n.report import MAX_CARDS, Card, auroc_table, heat_map, overlay, write_report
from tests.helpers import checks, stripes


def scored(category: str, label: str | None, value: float, path: str = "x.png") -> Card:
    spot = np.zeros((8, 8), np.float32)
    spot[2, 5] = value
    score = Score(VersionRef(category, "0" * 16), value, value / 2, value / 4, 1 - value, spot, checks(1))
    return Card(category, path, label, stripes(0, 80, 120), score)


def test_heat_is_brightest_where_the_map_is_highest() -> None:
    spot = np.zeros((8, 8), np.float32)
    spot[2, 5] = 1
    brightness = heat_map(spot, 80, 160, 0, 1).sum(axis=-1)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == pytest.approx((24.5, 109.5), abs=6)


def test_brightness_grows_with_heat() -> None:
    ramp = np.linspace(0, 1, 8, dtype=np.float32)[None].repeat(8, axis=0)
    brightness = heat_map(ramp, 64, 64, 0, 1).astype(int) @ [299, 587, 114]
    assert (np.diff(brightness[0]) >= 0).all()


def test_an_overlay_keeps_the_pictures_size_and_a_flat_map_is_no_error() -> None:
    picture = stripes(0, 50, 120)
    assert overlay(picture, np.random.default_rng(0).random((8, 8), dtype=np.float32)).shape == picture.shape
    assert overlay(picture, np.zeros((8, 8), np.float32)).shape == picture.shape


def test_aurocs() -> None:
    rows = auroc_table(
        [
            scored("a", "good", 0.1),
            scored("a", "good", 0.4),
            scored("a", "hole", 0.3),
            scored("a", "hole", 0.8),
            scored("b", "good", 0.1),
            scored("b", "hole", 0.1),
            scored("c", "good", 0.1),
            scored("d", None, 0.1),
        ]
    )
    by_name = {row.category: row for row in rows}
    assert list(by_name) == ["a", "b", "c", "d", "mean"]
    assert by_name["a"].fused == pytest.approx(0.75)
    assert by_name["a"].s_text == pytest.approx(0.25)
    assert by_name["b"].fused == pytest.approx(0.5)
    assert by_name["c"].fused is None
    assert (by_name["d"].good, by_name["d"].defective) == (0, 0)
    assert by_name["mean"].fused == pytest.approx(0.625)
    assert (by_name["mean"].good, by_name["mean"].defective) == (4, 3)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e3])
def test_an_auroc_does_not_depend_on_the_scale_of_scores(scale: float) -> None:
    values = [(0.1, "good"), (0.2, "hole"), (0.3, "good"), (0.4, "hole"), (0.5, "hole")]
    (row,) = auroc_table([scored("a", label, value * scale) for value, label in values])
    assert row.fused == pytest.approx(5 / 6)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                (self.images if tag == "img" else self.references).append(value or "")


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "new" / "report.html"
    rows = [scored("a", "good", 0.2, "good.png"), scored("a", "<b>hole</b>", 0.7, '"><script>.png')]
    write_report(file, rows, "A <title>", notes=["Note & more"], curl="curl 'x'")
    text = file.read_text()
    page = Page(text)
    assert page.references == []
    assert len(page.images) == 6
    assert all(image.startswith("data:image/webp;base64,") for image in page.images)
    assert decode(base64.b64decode(page.images[0].partition(",")[2])).shape == (80, 120, 3)
    assert "script" not in page.tags
    assert "A &lt;title&gt;" in text
    assert text.index("0.700") < text.index("0.200")


def test_a_name_that_is_no_text_is_shown_as_well_as_can_be(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", [scored("a", None, 0.2, os.fsdecode(b"caf\xe9.png"))], "Old names")
    assert "caf?.png" in (tmp_path / "report.html").read_text()


def test_a_decision_is_shown_where_one_was_made(tmp_path: Path) -> None:
    calibration = Calibration(scores=(0.1, 0.2, 0.3, 0.4))
    rows = [
        dataclasses.replace(scored("a", None, value), decision=decide(value, calibration, 0.2)) for value in (0.3, 0.7)
    ]
    write_report(tmp_path / "report.html", [*rows, scored("b", None, 0.5)], "Decided")
    text = (tmp_path / "report.html").read_text()
    assert re.findall(r"<b>(\w+)</b>\s+threshold 0.400, p = ([\d.]+), at most\s+20%", text) == [
        ("anomalous", "0.2"),
        ("normal", "0.6"),
    ]


def test_a_long_report_says_what_it_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(file, [scored("a", None, 0.01 * i) for i in range(MAX_CARDS + 3)], "Long")
    text = file.read_text()
    assert len(Page(text).images) == 3 * MAX_CARDS
    assert re.search(r"3 more pictures with lower scores", text)


def test_a_path_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(O2NError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", [], "x")


def test_a_report_lists_what_could_not_be_scored(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(file, [scored("a", None, 0.5)], "Some", refused=["<b>.png: is empty", "c.png: is no picture"])
    text = file.read_text()
    assert "2 pictures" in text
    assert "<li>&lt;b&gt;.png: is empty</li>" in text
    assert "<li>c.png: is no picture</li>" in text
    write_report(file, [scored("a", None, 0.5)], "All")
    assert "Not scored" not in file.read_text()
    write_report(file, [], "None", refused=["c.png: is no picture"])
    assert "1 picture<" in file.read_text()
