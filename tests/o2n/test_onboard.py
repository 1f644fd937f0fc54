"""References -> a published version: resumable at every point, the same every time, clear about bad references."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from o2n.category import Feedback, VersionRef
from o2n.collect import LEAST_AGE, collect
from o2n.errors import CategoryError, PictureError
from o2n.images import Picture
from o2n.making import STAGES
from o2n.onboard import (
    MAX_MORE_NORMAL,
    MAX_REFERENCES,
    Onboarded,
    Preview,
    onboard,
    preview,
    read_more_normal,
    read_references,
)
from o2n.profiles import JUDGING, TINY
from o2n.store import CategoryStore
from o2n.version import tensor_in, unpack
from tests.helpers import QUICK, checks, noisy, stripes, write


@pytest.fixture
def store(tmp_path: Path) -> CategoryStore:
    return CategoryStore((tmp_path / "store").as_uri())


def references(seed: int = 0) -> list[Picture]:
    return [checks(seed), checks(seed + 1)]


def run(store: CategoryStore, name: str = "board", seed: int = 0) -> Onboarded:
    return onboard(name, references(seed), QUICK, store)


def blobs(store: CategoryStore, ref: VersionRef) -> dict[str, object]:
    manifest = store.manifest(ref)
    for blob in manifest.blobs.values():
        store.get_blob(blob)
    return dict(manifest.blobs)


def test_a_version_is_published_with_everything_a_scorer_needs(store: CategoryStore) -> None:
    stages: list[tuple[str, float]] = []
    done = onboard(
        "metal_nut", references(), QUICK, store, on_progress=lambda stage, share: stages.append((stage, share))
    )
    manifest = store.manifest(store.current("metal_nut"))
    assert manifest.ref == done.ref
    assert manifest.object_word == "metal nut"
    assert manifest.profile == QUICK
    assert set(blobs(store, done.ref)) == {"references", *STAGES} - {"prior", "place"}
    assert done.resumed == ()
    assert [stage for stage, share in stages if share == 1.0] == [*STAGES, "published"]
    shares = [share for stage, share in stages if stage.startswith("adapter")]
    assert shares == sorted(shares)


def test_the_bank_holds_references_and_pool(store: CategoryStore) -> None:

    manifest = store.manifest(run(store).ref)
    features = unpack(store.get_blob(manifest.blobs["features"]), "features")
    pool = unpack(store.get_blob(manifest.blobs["pool"]), "pool")
    assert features.shape[0] == QUICK.pool.pictures + 2 * QUICK.pool.warps
    assert len(pool) == QUICK.pool.pictures - 2


def test_the_same_inputs_give_the_same_digests_in_another_store(store: CategoryStore, tmp_path: Path) -> None:
    other = CategoryStore((tmp_path / "other").as_uri())
    first, second = run(store), run(other)
    assert first.ref == second.ref
    assert blobs(store, first.ref) == blobs(other, second.ref)


def test_running_again_recalls_every_stage(store: CategoryStore) -> None:
    first = run(store)
    again = run(store)
    assert again.ref == first.ref
    assert again.resumed == STAGES
    assert store.pointer("board").history == []


def test_what_pictures_are_judged_by_trains_nothing_again(store: CategoryStore, tmp_path: Path) -> None:
    judging = {
        "t": 0.2,
        "query_guidance": 1.5,
        "prompts": 1,
        "smoothing": 1.0,
        "alpha": 2.0,
        "beta": 0.0,
        "branches": ("S_P", "S_N"),
    }
    changed = QUICK.model_copy(update={**judging, "fusion": "calibrated"})
    assert all(getattr(changed, name) != getattr(QUICK, name) for name in JUDGING)
    run(store)
    made = onboard("board", references(0), changed, store)
    assert set(STAGES) - set(made.resumed) == {"scales", "calibration"}
    anew = CategoryStore((tmp_path / "anew").as_uri())
    assert made.ref == onboard("board", references(0), changed, anew).ref


def test_other_references_make_another_version(store: CategoryStore) -> None:
    first, second = run(store), run(store, seed=10)
    assert store.current("board") == second.ref
    assert store.pointer("board").history == [first.ref.version]


class Killed(BaseException):
    """As abrupt as a kill: no `except Exception` sees it."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> CategoryStore:
    """A store in which `board` has one version."""
    store = CategoryStore(tmp_path_factory.mktemp("published").as_uri())
    run(store)
    return store


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> VersionRef:
    """What a run with other references makes when nobody kills it."""
    return run(CategoryStore(tmp_path_factory.mktemp("undisturbed").as_uri()), seed=10).ref


WRITING = [stage for stage in STAGES if stage not in ("prior", "text_features")]  # `published` has these two


# References, then a blob and a note for each stage that writes, then manifest and pointer.
@pytest.mark.parametrize("write_number", range(1, 4 + 2 * len(WRITING)))
def test_killed_at_any_write_the_old_version_serves_and_the_next_run_resumes(
    published: CategoryStore,
    undisturbed: VersionRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_number: int,
) -> None:
    shutil.copytree(published.url.removeprefix("file://"), tmp_path / "store")
    store = CategoryStore((tmp_path / "store").as_uri())
    before = store.current("board")
    objects, count = store.objects, 0

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def put(*args: object) -> None:
            nonlocal count
            count += 1
            if count == write_number:
                raise Killed
            write(*args)

        return put

    with monkeypatch.context() as patch:
        patch.setattr(objects, "put", dying(objects.put))
        patch.setattr(objects, "put_if", dying(objects.put_if))
        with pytest.raises(Killed):
            run(store, seed=10)
    assert store.current("board") == before
    assert [manifest.ref for manifest in store.versions("board")] == [before]
    assert blobs(store, before)

    resumed = run(store, seed=10)
    assert resumed.ref == store.current("board") == undisturbed
    assert blobs(store, resumed.ref)
    finished = WRITING[: (write_number - 2) // 2 if write_number > 1 else 0]
    assert [stage for stage in resumed.resumed if stage in WRITING] == finished


def test_an_altered_stage_is_made_again(store: CategoryStore) -> None:
    first = run(store)
    adapter = store.manifest(first.ref).blobs["adapter"]
    store.objects.put(f"blobs/sha256/{adapter.sha256}", b"altered")
    again = run(store)
    assert again.ref == first.ref
    assert "adapter" not in again.resumed
    assert blobs(store, again.ref)


def test_pictures_of_different_sizes_and_modes_make_one_category(store: CategoryStore, tmp_path: Path) -> None:
    folder = write(tmp_path / "good", [stripes(0, 300, 90), checks(1)])
    Image.fromarray(stripes(2)).convert("L").save(folder / "grey.jpg")
    Image.fromarray(stripes(3)).convert("P").save(folder / "palette.gif")
    Image.fromarray(stripes(4)).convert("CMYK").save(folder / "cmyk.tif")
    Image.fromarray(np.full((40, 50), 40000, np.uint16)).save(folder / "deep.png")
    found = read_references(folder)
    assert len(found) == 6
    assert onboard("mixed", list(found.values()), QUICK, store).ref == store.current("mixed")


def test_files_that_are_no_pictures_by_name_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "good", references())
    (folder / "notes.txt").write_text("notes")
    (folder / ".DS_Store.png").write_text("hidden")
    assert len(read_references(folder)) == 2


def test_a_file_that_should_be_a_picture_and_is_none_refuses_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "good", [*references(), checks(5)])
    (folder / "bad.png").write_text("no picture")
    with pytest.raises(PictureError, match=r"bad\.png"):
        read_references(folder)


@pytest.mark.parametrize(
    ("pictures", "said"),
    [([], "0 distinct pictures"), ([checks(0)], "1 distinct picture,"), ([checks(0)] * 3, "of 3, the rest are copies")],
)
def test_too_few_references_are_refused(tmp_path: Path, pictures: list[Picture], said: str) -> None:
    with pytest.raises(CategoryError, match=said) as refused:
        read_references(write(tmp_path / "good", pictures))
    assert "give 2 to 8" in str(refused.value)


def test_as_many_references_as_are_taken_are_onboarded(tmp_path: Path) -> None:
    store, profile = CategoryStore(tmp_path.as_uri()), QUICK.model_copy(update={"place_weights": TINY.place_weights})
    ref = onboard("board", [checks(seed) for seed in range(MAX_REFERENCES)], profile, store).ref
    assert len(tensor_in(store, store.manifest(ref), "references")) == MAX_REFERENCES


def test_pictures_of_formats_that_are_not_read_are_no_reason_to_do_with_fewer(tmp_path: Path) -> None:
    write(tmp_path, [checks(0), checks(1), checks(2)])
    (tmp_path / "from a phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(PictureError, match=r"from a phone\.HEIC: is no picture of a format that is read: send PNG"):
        read_references(tmp_path)


def test_too_many_references_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    for index in range(65):
        (tmp_path / f"{index}.png").touch()  # decoding any of them would be another error
    with pytest.raises(CategoryError, match="65 pictures, at most 64"):
        read_references(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CategoryError, match="no such folder"):
        read_references(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for read in (read_references, lambda place: read_more_normal(place, 64)):
        with pytest.raises(CategoryError, match="file: is a file, not a folder; give "):
            read(tmp_path / "file")


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "ünï", "x" * 300])
def test_a_hostile_name_is_refused_before_anything_is_written(store: CategoryStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(CategoryError):
        run(store, name)
    assert not (tmp_path / "store").exists()


def test_a_reference_unlike_the_others_is_a_warning_and_no_error(store: CategoryStore) -> None:
    alike = [noisy(seed) for seed in range(4)]
    odd = [alike[0], stripes(0), *alike[1:3], alike[2]]
    done = onboard("odd", odd, QUICK, store)
    copies, warning = done.warnings
    assert copies.startswith("1 of 5 references do not count")
    assert "reference 2 of 5" in warning
    assert store.manifest(done.ref).warnings == [warning]
    assert onboard("odd", odd, QUICK, store).warnings == done.warnings
    assert onboard("even", alike, QUICK, store).warnings == ()


def test_references_that_look_the_same_are_a_warning(store: CategoryStore) -> None:
    large = checks(0, 200, 200)
    smaller = Image.fromarray(large).resize((100, 100), Image.Resampling.LANCZOS)
    files = ["a.png", "b.png", "a small.png", "c.png"]
    small = np.asarray(smaller)
    (warning,) = onboard("board", [large, stripes(0), small, checks(2)], QUICK, store, files=files).warnings
    assert warning.startswith("references 1 of 4 (a.png) and 3 of 4 (a small.png) look the same: ")


def test_a_warning_names_the_file_and_the_version_does_not_hang_on_it(store: CategoryStore) -> None:
    odd = [noisy(0), noisy(1), stripes(0)]
    files = ["good/a.png", "good/b.png", "good/\udce9.png"]  # the last as old file systems have them
    done = onboard("odd", odd, QUICK, store, files=files)
    (warning,) = done.warnings
    assert warning.startswith("reference 3 of 3 (good/?.png) is ")
    elsewhere = CategoryStore(f"{store.url}-elsewhere")
    assert onboard("odd", odd, QUICK, elsewhere).ref == done.ref
    assert onboard("odd", odd, QUICK, store).unchanged


def test_references_that_are_copies_are_told(store: CategoryStore) -> None:
    doubled = [checks(0), checks(1), checks(0)]
    told = ("1 of 3 references do not count, as copies of others: 2 do",)
    assert preview("board", doubled, QUICK, store).warnings == told
    assert onboard("board", doubled, QUICK, store).warnings == told
    assert preview("board", doubled, QUICK, store).warnings == told


def test_more_normal_pictures_that_are_copies_are_told(store: CategoryStore) -> None:
    more = [references()[0], checks(7), checks(7), checks(8)]
    told = ("2 of 4 more normal pictures do not count, as copies of references or of each other: 2 do",)
    for _ in range(2):
        done = onboard("board", references(), QUICK, store, more_normal=more)
        assert done.warnings == told
    assert done.unchanged
    assert len(store.calibration(done.ref).scores) == 4
    assert onboard("board", references(), QUICK, store, more_normal=[checks(7), checks(8)]).warnings == ()


def test_pictures_are_kept_and_seen_as_closely_as_the_smallest_reference_allows(tmp_path: Path) -> None:
    store, levels = CategoryStore(tmp_path.as_uri()), len(QUICK.encoder.levels)
    for sides, resolution in (((150, 128), 128), ((150, 127), 64)):
        references = [stripes(0, 300, 200), stripes(1, *sides)]
        ref = onboard(f"of-{resolution}", references, QUICK, store, more_normal=[stripes(2, 90, 90)]).ref
        manifest = store.manifest(ref)
        assert manifest.resolution == resolution
        shapes = {
            blob: unpack(store.get_blob(manifest.blobs[blob]), blob).shape
            for blob in ("references", "pool", "features", "normals", "distances")
        }
        seen = levels * resolution // 64
        assert shapes["references"] == (2, resolution, resolution, 3)
        assert shapes["pool"][1:] == (64, 64, 3)
        assert shapes["features"][1:] == (seen, 256, 128)
        assert shapes["normals"] == (3, seen, 256, 128)
        assert shapes["distances"] == (3, seen, 256)
        assert len(store.calibration(ref).scores) == 3


def test_more_normal_pictures_come_from_a_folder_of_any_number(tmp_path: Path) -> None:
    found = read_more_normal(write(tmp_path / "more", [stripes(0, 300, 90)]), 64)
    assert [picture.shape for picture in found] == [(64, 64, 3)]
    with pytest.raises(CategoryError, match="no such folder"):
        read_more_normal(tmp_path / "nowhere", 64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CategoryError, match="no pictures in it"):
        read_more_normal(tmp_path / "empty", 64)


def test_more_normal_pictures_than_are_taken_are_refused_before_one_is_read(tmp_path: Path) -> None:
    for number in range(MAX_MORE_NORMAL + 1):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(CategoryError, match="501, at most 500 are taken"):
        read_more_normal(tmp_path, 64)
    with pytest.raises(CategoryError, match="board: 501, at most 500"):
        onboard("board", references(), QUICK, CategoryStore(tmp_path.as_uri()), more_normal=[checks(0)] * 501)


def test_the_manifest_is_readable_json(store: CategoryStore) -> None:
    ref = run(store).ref
    manifest = json.loads(store.objects.get(f"categories/board/versions/{ref.version}.json")[0])
    assert manifest["libraries"]["torch"]
    assert manifest["profile"]["t"] == QUICK.t


def test_a_preview_tells_what_is_missing_and_writes_nothing(
    store: CategoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert preview("board", references(), QUICK, store).missing == STAGES
    assert not (tmp_path / "store").exists()
    done = run(store)
    before = store.objects.entries("")
    monkeypatch.setattr("o2n.store.RENEW_AGE", timedelta(0))
    assert preview("board", references(), QUICK, store) == Preview((), done.ref, unchanged=True)
    assert preview("board", references(10), QUICK, store) == Preview(tuple(s for s in STAGES if s != "prior"))
    other = preview("hardboard", references(), QUICK, store, object_word="board")
    assert (other.missing, other.unchanged) == ((), False)
    assert store.objects.entries("") == before


def test_the_same_pictures_again_leave_what_was_fed_back(store: CategoryStore) -> None:
    first = run(store)
    assert not first.unchanged
    manifest = store.manifest(first.ref)
    said = Feedback(verdict="normal", by="ada", at=manifest.created, picture="0" * 64, version=first.ref.version)
    fed = first.ref
    for count in range(1, 5):
        more = {"parent": fed.version, "onboarded": first.ref.version, "feedback": [said] * count}
        fed = store.publish(manifest.model_copy(update=more))
    collect(store, LEAST_AGE, keep=1, now=datetime.now(UTC) + 2 * LEAST_AGE)
    for key in store.objects.keys("stages/"):  # as they are after `LEAST_AGE`, those that no version names
        store.objects.delete(key)
    again = run(store)
    assert again.unchanged
    assert again.ref == store.current("board") == fed
    assert not list(store.objects.keys("stages/"))  # known by what went in: nothing was made anew
    left = f"1 picture that was fed back as normal to version {fed.version} is not in the new one"
    foreseen = preview("board", references(10), QUICK, store)
    other = run(store, seed=10)
    assert not other.unchanged
    assert [left in " ".join(found.warnings) for found in (again, foreseen, other)] == [False, True, True]
    assert store.current("board") == other.ref
    back = run(store)
    assert back.ref == store.current("board") == first.ref
    assert left not in " ".join(back.warnings)  # the one that serves in between was taught nothing


def test_a_word_too_long_for_a_manifest_is_refused_before_anything_is_made(store: CategoryStore) -> None:
    with pytest.raises(CategoryError, match="65 characters"):
        onboard("board", references(), QUICK, store, "x" * 65)
    assert store.objects.keys("") == []


def test_what_it_took_is_recorded_and_makes_no_other_version(store: CategoryStore) -> None:
    manifest = store.manifest(run(store).ref)
    assert set(manifest.seconds) == set(STAGES)
    assert manifest.machine
    assert manifest.model_copy(update={"seconds": {}, "machine": ""}).ref == manifest.ref


def test_a_training_that_was_killed_goes_on_within_it(
    store: CategoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = 5
    monkeypatch.setattr("o2n.customize.SAVE_EVERY", every)
    settings = QUICK.customisation.model_copy(update={"steps": every + 3, "batch": 1, "prior_weight": 0.0})
    profile = QUICK.model_copy(update={"customisation": settings})
    steps: list[float] = []

    def killed(stage: str, done: float) -> None:
        if stage.startswith("adapter") and every + 2 <= round(done * (settings.steps + 1)) < settings.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onboard("board", references(), profile, store, on_progress=killed)
    assert [key for key in store.objects.keys("stages/") if key.endswith(".partial")]
    again = onboard(
        "board",
        references(),
        profile,
        store,
        on_progress=lambda stage, done: steps.append(done) if "loss" in stage else None,
    )
    assert len([done for done in steps if 0 < done < 1]) == settings.steps - every
    assert not [key for key in store.objects.keys("stages/") if key.endswith(".partial")]
    whole = onboard("board", references(), profile, CategoryStore((tmp_path / "other").as_uri()))
    assert again.ref == whole.ref
