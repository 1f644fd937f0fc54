"""What is written takes a file's place whole, or not at all."""

from pathlib import Path

import pytest

from o2n.files import replacing


def test_the_old_is_there_until_the_new_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "not yet there" / "a.json"
    with replacing(file) as part:
        part.write_text("old")
    with replacing(file) as part:
        part.write_text("ne")
        assert file.read_text() == "old"
        part.write_text("new")
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")

    def write() -> None:
        with replacing(file) as part:
            part.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_are_not_in_each_others_way(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with replacing(file) as one, replacing(file) as other:
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one"
