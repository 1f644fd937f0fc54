"""Any number of normal pictures of a category, in MVTec layout."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.export_pool import main
from o2n import images
from o2n.category import VersionRef
from o2n.errors import CategoryError
from o2n.export import draw_normal
from o2n.foundation import load_foundation
from o2n.normals import encode
from o2n.onboard import onboard
from o2n.screening import acceptable
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[CategoryStore, VersionRef]:
    store = CategoryStore(tmp_path_factory.mktemp("export").as_uri())
    return store, onboard("board", [checks(0), checks(1)], QUICK, store).ref


def test_more_pictures_than_one_batch_of_them(published: tuple[CategoryStore, VersionRef], tmp_path: Path) -> None:
    store, _ = published
    options = ["board", "--count", "18", "--output", str(tmp_path), "--store", store.url]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output.splitlines()[-1])
    assert (found["references"], found["generated"]) == (2, 18)
    files = images.find(tmp_path / "board" / "train" / "good")
    pictures = [images.read(file) for file in files]
    assert len({images.digest(picture) for picture in pictures}) == 20
    assert all(np.array_equal(a, b) for a, b in zip(pictures, [checks(0), checks(1)], strict=False))
    features = encode(load_foundation(QUICK), pictures)
    assert acceptable(features[:2], features[2:]) == list(range(18))
    again = CliRunner().invoke(main, options)
    assert again.exit_code == 1
    assert "already" in again.output


def test_all_pictures_have_the_size_of_the_versions_own(tmp_path: Path) -> None:
    """Also where it looks closer than the diffusion model draws: others stack them, and would learn the difference."""
    store = CategoryStore(tmp_path.as_uri())
    smooth = [images.resize(checks(seed, 32, 32), 128) for seed in (0, 1)]
    ref = onboard("board", smooth, QUICK, store).ref
    assert store.manifest(ref).resolution == 128
    references, drawn = draw_normal(store, ref, 2)
    assert {picture.shape for picture in (*references, *drawn)} == {(128, 128, 3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["board", "--output", "{tmp}/taken/out"], "taken/out/board/train/good cannot be made (Not a directory): give"),
        (["board", "--output", "{tmp}", "--version", "../../board"], "../../board"),
        (["nobody", "--output", "{tmp}"], "nobody"),
    ],
)
def test_what_cannot_be_written_or_found_is_one_line_before_anything_is_drawn(
    published: tuple[CategoryStore, VersionRef], tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "taken").write_text("a file")
    arguments = [option.format(tmp=tmp_path) for option in options]
    done = CliRunner().invoke(main, [*arguments, "--store", published[0].url], catch_exceptions=False)
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert message in done.output


def test_a_disk_that_is_full_is_one_line(published: tuple[CategoryStore, VersionRef], tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))  # of a file's size: it takes root to fill a disk
    try:
        options = ["board", "--count", "1", "--output", str(tmp_path), "--store", published[0].url]
        done = CliRunner().invoke(main, options, catch_exceptions=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].endswith("cannot be written (File too large): make room, empty it, run again")


def test_the_same_pictures_every_time(published: tuple[CategoryStore, VersionRef]) -> None:
    first, second = (draw_normal(*published, count)[1] for count in (3, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=False))


def test_references_take_turns_from_batch_to_batch(tmp_path: Path) -> None:
    """Of ten a batch has room for eight."""
    store, references = CategoryStore(tmp_path.as_uri()), [checks(seed) for seed in range(10)]
    ref = onboard("board", references, QUICK, store).ref
    _, found = draw_normal(store, ref, 5)
    shown = {int(np.argmin([abs(picture.astype(int) - one).mean() for one in references])) for picture in found}
    assert {8, 9} & shown


def test_none_rather_than_pictures_that_will_not_do(tmp_path: Path) -> None:
    """References so much alike that nothing drawn comes as near to them as they are to each other."""
    store = CategoryStore(tmp_path.as_uri())
    other = checks(0).copy()
    other[0, 0] ^= 1
    ref = onboard("board", [checks(0), other], QUICK, store).ref
    with pytest.raises(CategoryError, match="none of the last 48"):
        draw_normal(store, ref, 1)
