"""The linear maps of the text branch: trained on an auxiliary set, refused on that very set."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from jobs.train_text_map import main
from o2n import images
from o2n.data.datasets import DATASETS
from o2n.data.datasets.base import read_mask
from o2n.errors import DataSetError, FoundationError
from o2n.evaluation.judge import judge
from o2n.evaluation.protocol import Unit, run
from o2n.evaluation.tasks import Task
from o2n.features import patch_features
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.models import LinearMaps
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.text import LOGIT_SCALE, abnormal_probability, text_features, text_logits
from o2n.text_map import MapCard, read_map, refuse_trained_on, write_map
from o2n.text_training import _shrunk, dice_loss, focal_loss, read_auxiliary, train_text_map
from tests.helpers import QUICK, checks
from tests.o2n.data.datasets.trees import visa

CARD = MapCard(
    trained_on="visa", pictures=("0" * 16,), encoder="e", levels=(2, 4, 5), resolution=64, steps=1, seed=0, loss=0.5
)


def spoilt(seed: int) -> tuple[Picture, Picture]:
    """A board with a red square, and its mask."""
    rng = np.random.default_rng([9, seed])
    picture, mask = checks(seed).copy(), np.zeros((64, 64), np.uint8)
    y, x = rng.integers(4, 40, 2)
    picture[y : y + 16, x : x + 16], mask[y : y + 16, x : x + 16] = (220, 0, 30), 255
    return picture, mask


@pytest.fixture(scope="module")
def auxiliary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in MVTec layout: one category, four good and four bad pictures."""
    folder = tmp_path_factory.mktemp("auxiliary")
    for kind in ("train/good", "test/good", "test/red", "ground_truth/red"):
        (folder / "board" / kind).mkdir(parents=True)
    for seed in range(4):
        picture, mask = spoilt(seed)
        Image.fromarray(checks(50 + seed)).save(folder / "board/test/good" / f"{seed:03}.png")
        Image.fromarray(checks(70 + seed)).save(folder / "board/train/good" / f"{seed:03}.png")
        Image.fromarray(picture).save(folder / "board/test/red" / f"{seed:03}.png")
        Image.fromarray(mask).save(folder / "board/ground_truth/red" / f"{seed:03}_mask.png")
    return folder


@pytest.fixture(scope="module")
def profile(auxiliary: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The quick profile with a map trained by the job."""
    folder = tmp_path_factory.mktemp("map")
    file, written = folder / "map.safetensors", folder / "quick.json"
    written.write_text(QUICK.model_dump_json())
    options = ["--trained-on", "Boards", "--output", str(file), "--steps", "40", "--batch", "4"]
    done = CliRunner().invoke(main, [str(auxiliary), *options, "--profile", str(written)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["pictures"] == 8
    return QUICK.model_copy(update={"text_map": str(file)})


def test_a_trained_map_reads_where_a_defect_is(profile: Profile) -> None:
    """On pictures of the same kind that it has not seen, and better than untrained maps."""
    clip = load_foundation(profile).clip
    pictures, masks = zip(*(spoilt(seed) for seed in range(10, 16)), strict=True)
    text = text_features(clip, "board")[None].expand(6, -1, -1)
    inside = torch.stack([torch.from_numpy(mask[2::4, 2::4].flatten() > 0) for mask in masks])
    features = patch_features(clip, list(pictures), QUICK.encoder.levels)
    found = abnormal_probability(clip, features, text).mean(dim=1)
    assert found[inside].mean() > found[~inside].mean() + 0.3
    assert load_foundation(profile).identity != load_foundation(QUICK).identity


def test_the_same_arguments_give_the_same_maps(auxiliary: Path) -> None:
    clip, boards = load_foundation(QUICK).clip, read_auxiliary(auxiliary, "boards")

    def trained(seed: int) -> bytes:
        return write_map(*train_text_map(clip, (2, 4), boards, "boards", steps=3, batch=4, seed=seed))

    assert trained(0) == trained(0) != trained(1)


def test_a_map_fits_its_encoder_whatever_precision_it_was_trained_in(auxiliary: Path, tmp_path: Path) -> None:
    """As on a GPU, where the encoder is cast once it is loaded."""
    clip = load_foundation(QUICK).clip
    cast = replace(clip, model=copy.deepcopy(clip.model))
    cast.seeing.to(torch.bfloat16)
    file = tmp_path / "map.safetensors"
    levels = QUICK.encoder.levels
    boards = read_auxiliary(auxiliary, "boards")
    file.write_bytes(write_map(*train_text_map(cast, levels, boards, "boards", steps=1, batch=2, seed=0)))
    assert load_foundation(QUICK.model_copy(update={"text_map": str(file)})).text_map is not None


def test_visa_is_read_as_it_is_published(tmp_path: Path) -> None:
    """The set that the paper's map for MVTec AD is trained on, whose layout is its own."""
    profile, file = tmp_path / "quick.json", tmp_path / "map.safetensors"
    profile.write_text(QUICK.model_dump_json())
    options = ["--trained-on", "VisA", "--output", str(file), "--steps", "1", "--batch", "2", "--profile", str(profile)]
    done = CliRunner().invoke(main, [str(visa(tmp_path)), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    card = read_map(file)[1]
    asked = [images.digest(query.read()) for one in DATASETS["visa"].load(tmp_path) for query in one.queries]
    assert set(card.pictures) == {digest[:16] for digest in asked}
    with pytest.raises(FoundationError, match="trained on VisA"):
        refuse_trained_on(card, "visa", [])


@pytest.mark.parametrize("value", [1, 3, 255])
def test_a_mask_is_whatever_is_not_black(tmp_path: Path, value: int) -> None:
    """Numbers of classes too, and a spot that is less than a pixel where the mask is shrunk."""
    mask = np.zeros((256, 256), np.uint8)
    mask[8:16, 200:201], mask[128:, :64] = value, value
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = _shrunk(read_mask(tmp_path / "mask.png"), 64).numpy()
    expected = np.zeros((64, 64))
    expected[2:4, 50], expected[32:, :16] = 1, 1
    assert np.array_equal(found, expected)


def test_nothing_is_trained_for_a_file_that_cannot_be_written(auxiliary: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for output in (tmp_path / "folder", tmp_path / "missing" / "map.safetensors"):
        options = ["--trained-on", "boards", "--output", str(output), "--steps", str(1 << 40)]
        done = CliRunner().invoke(main, [str(auxiliary), *options])
        assert done.exit_code != 0
        assert str(output) in done.output


def test_evaluating_on_what_a_map_was_trained_on_is_refused(profile: Profile, tmp_path: Path) -> None:
    store = CategoryStore(tmp_path.as_uri())
    pictures, bad = [checks(seed) for seed in range(90, 94)], np.array([False, False, True, True])
    seen = [*pictures[:3], spoilt(2)[0]]
    for group, queries in (("boards", pictures), ("other boards", seen)):
        with pytest.raises(FoundationError, match="trained on Boards"):
            judge(Task(group, "board", "board", [checks(0), checks(1)], queries, bad), 0, profile, store)
    assert store.categories() == []
    card = load_foundation(profile).text_map
    refuse_trained_on(card, "other boards", map(images.digest, pictures))
    refuse_trained_on(None, "boards", map(images.digest, seen))


def test_no_unit_is_run_on_what_a_map_was_trained_on(auxiliary: Path, profile: Profile) -> None:
    """Neither on a set of its name, whatever is shown, nor on its pictures under another name."""
    (boards,) = read_auxiliary(auxiliary, "boards")
    for name, queries, shared in (("BOARDS", boards.normals, ""), ("other", boards.queries[-1:], ", 1 of these")):
        unit = Unit(name, "board", "board", 2, 0, "patchcore", boards.normals[:2], queries, pixels=64)
        with pytest.raises(FoundationError, match=f"trained on Boards{shared}"):
            run(unit, profile, None)


def test_a_map_for_another_encoder_or_other_levels_is_refused(profile: Profile, tmp_path: Path) -> None:
    maps, card = read_map(Path(str(profile.text_map)))
    file = tmp_path / "other.safetensors"
    for change in ({"encoder": "0" * 16}, {"levels": (1, 2, 3)}):
        file.write_bytes(write_map(maps, card.model_copy(update=change)))
        with pytest.raises(FoundationError, match="another encoder"):
            load_foundation(profile.model_copy(update={"text_map": str(file), "name": str(change)}))


@pytest.mark.parametrize("cut", [0, 7, 300, -5])
def test_a_damaged_map_is_refused(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(write_map(LinearMaps(3, 8, 4), CARD)[:cut])
    with pytest.raises(FoundationError, match="text map") as refused:
        read_map(file)
    assert "\n" not in str(refused.value)
    with pytest.raises(FoundationError, match="cannot be read"):
        read_map(tmp_path / "missing")


def test_a_map_comes_back_as_it_was_written(tmp_path: Path) -> None:
    maps, file = LinearMaps(3, 8, 4), tmp_path / "map.safetensors"
    file.write_bytes(write_map(maps, CARD))
    read, card = read_map(file)
    assert card == CARD
    assert torch.equal(read.weight, maps.weight)


def test_without_a_map_the_profile_says_so(auxiliary: Path, profile: Profile) -> None:
    other = QUICK.model_copy(update={"encoder": QUICK.encoder.model_copy(update={"levels": (1, 3)})})
    assert QUICK.reads_by == "embedded linear maps"
    assert "own projection" in other.reads_by
    assert str(profile.text_map) in profile.reads_by
    assert load_foundation(other).clip.maps is None


def test_a_folder_that_is_no_auxiliary_set_is_refused(auxiliary: Path, tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="as in MVTec AD"):
        read_auxiliary(tmp_path, "boards")
    with pytest.raises(DataSetError, match=r"split_csv/1cls.csv"):
        read_auxiliary(auxiliary, "visa")
    shutil.copytree(auxiliary, tmp_path, dirs_exist_ok=True)
    (tmp_path / "board/ground_truth/red/000_mask.png").unlink()
    with pytest.raises(DataSetError, match=r"000_mask.png: no such file"):
        read_auxiliary(tmp_path, "boards")
    shutil.rmtree(tmp_path / "board/ground_truth")
    with pytest.raises(DataSetError, match="board has defects without a mask"):
        read_auxiliary(tmp_path, "boards")


PIXELS = arrays(np.float32, (2, 3, 3), elements=st.floats(0, 1, width=32))
MASKS = arrays(np.float32, (2, 3, 3), elements=st.sampled_from([0.0, 1.0]))


@given(probability=PIXELS, mask=MASKS)
@settings(max_examples=50, deadline=None)
def test_the_losses_are_what_their_papers_say(probability: np.ndarray, mask: np.ndarray) -> None:
    p, y = torch.from_numpy(probability), torch.from_numpy(mask)
    right = np.where(mask > 0, probability, 1 - probability).astype(np.float64)
    expected = -((1 - right) ** 2) * np.log(np.maximum(right, 1e-6))
    assert focal_loss(p, y).item() == pytest.approx(expected.mean(), abs=1e-4)
    each = [1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(probability, mask, strict=True)]
    assert dice_loss(p, y).item() == pytest.approx(np.mean(each), abs=1e-5)
    assert focal_loss(y, y).item() == dice_loss(y, y).item() == 0
    assert 0 <= dice_loss(p, y).item() <= 1


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_logits_are_a_hundred_cosines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mapped, text = (rng.normal(size=size) for size in ((1, 2, 3, 4), (1, 2, 4)))
    cosine = np.einsum("blge,bce->blgc", mapped, text) / (
        np.linalg.norm(mapped, axis=-1)[..., None] * np.linalg.norm(text, axis=-1)[:, None, None]
    )
    unit = [torch.nn.functional.normalize(torch.from_numpy(x), dim=-1) for x in (mapped, text)]
    np.testing.assert_allclose(text_logits(*unit).numpy(), LOGIT_SCALE * cosine, atol=1e-9)
