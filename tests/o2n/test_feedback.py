"""An inspector's verdict: normal pictures are in bank and calibration at once, anomalous ones kept, none is lost."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from o2n import images
from o2n.bank import MemoryBank
from o2n.category import VersionRef
from o2n.errors import ConflictError, FoundationError, NotFoundError, RequestError
from o2n.features import smoothed
from o2n.feedback import accept_normal, keep_anomalous, withdraw_normal
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.normals import encode
from o2n.onboard import onboard
from o2n.pool import bank_origins
from o2n.profiles import Profile
from o2n.references import References
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from o2n.version import unpack, unpack_calibration_scales
from tests.helpers import QUICK, checks, stripes

CALIBRATED: Profile = QUICK.model_copy(update={"fusion": "calibrated"})
EXTRAS = [checks(seed) for seed in range(20, 24)]


@pytest.fixture(scope="module")
def onboarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with the category `board`, which tests copy."""
    folder = tmp_path_factory.mktemp("onboarded") / "store"
    onboard("board", [checks(0), checks(1)], CALIBRATED, CategoryStore(folder.as_uri()), more_normal=EXTRAS)
    return folder


@pytest.fixture
def store(onboarded: Path, tmp_path: Path) -> CategoryStore:
    shutil.copytree(onboarded, tmp_path / "store")
    return CategoryStore((tmp_path / "store").as_uri())


def judge_normal(
    store: CategoryStore, picture: Picture, ref: VersionRef | None = None, by: str = "ada", note: str | None = None
) -> VersionRef:
    """Score a picture with `ref`, by default with what serves now, and say that it is normal."""
    foundation, ref = load_foundation(CALIBRATED), ref or store.current("board")
    (found,) = TripletScorer(CALIBRATED, store).score([picture], [ref])
    features = encode(foundation, [images.resize(picture, CALIBRATED.diffusion.resolution)])[0].numpy()
    return accept_normal(store, foundation, ref, picture, features, found.s_p, found.s_text, by, note)


def withdraw(store: CategoryStore, picture: Picture, by: str = "ada", note: str | None = None) -> VersionRef:
    return withdraw_normal(store, store.current("board"), picture, by, note)


def tensor(store: CategoryStore, ref: VersionRef, blob: str) -> torch.Tensor:
    return unpack(store.get_blob(store.manifest(ref).blobs[blob]), blob)


def tolerance(store: CategoryStore, ref: VersionRef) -> float:
    """1e-5 of the branches' own units, in those of a fused score."""
    return 4e-5 / float(tensor(store, ref, "scales")[:, 1].min())


def test_a_normal_picture_is_in_the_bank_and_in_the_calibration_of_a_new_version(store: CategoryStore) -> None:
    before, picture = store.current("board"), stripes(3)
    after = judge_normal(store, picture, by="ada", note="the new glaze")
    assert store.current("board") == after != before
    old, new = store.manifest(before), store.manifest(after)
    assert {name for name in new.blobs if new.blobs[name] != old.blobs[name]} == {
        "references",
        "features",
        "calibration",
        "normals",
        "distances",
    }
    query = images.resize(picture, CALIBRATED.diffusion.resolution)
    assert np.array_equal(tensor(store, after, "references")[-1].numpy(), query)
    assert len(tensor(store, after, "features")) == len(tensor(store, before, "features")) + 1
    assert new.parent == new.onboarded == before.version
    (said,) = new.feedback
    assert (said.verdict, said.by, said.note, said.version) == ("normal", "ada", "the new glaze", before.version)
    assert said.picture == images.digest(query)
    assert store.feedback("board") == [said]

    first, second = TripletScorer(CALIBRATED, store).score([picture] * 2, [before, after])
    assert (second.s_p, second.s_text) == pytest.approx((first.s_p, first.s_text), abs=tolerance(store, after))
    assert second.s_n < first.s_n
    added = store.calibration(after).pictures[-1]
    assert added.origin == "feedback"
    assert added.score == pytest.approx(first.score, abs=tolerance(store, after))
    assert len(store.calibration(after).scores) == len(store.calibration(before).scores) + 1


def test_every_calibration_score_is_what_onboarding_with_that_bank_would_have_made(store: CategoryStore) -> None:
    pictures = [checks(40), stripes(1), EXTRAS[1], checks(41)]
    for picture in pictures:
        ref = judge_normal(store, picture)
    bank = tensor(store, ref, "features")
    origins = [*bank_origins(2, CALIBRATED), *range(2, 2 + len(pictures))]  # what was fed back is last
    normals, distances = tensor(store, ref, "normals"), tensor(store, ref, "distances")
    calibration = store.calibration(ref)
    assert [picture.origin for picture in calibration.pictures] == [
        *["reference"] * 2,
        *["extra", "feedback", "extra", "extra"],
        *["feedback"] * 3,
    ]
    places = {0: 0, 1: 1, 3: 4, 6: 2, 7: 3, 8: 5}  # of calibration pictures in the references
    data = store.get_blob(store.manifest(ref).blobs["scales"])
    scale = unpack_calibration_scales(data, "scales", len(calibration.pictures))[1]
    local = torch.empty_like(distances)
    for row in range(len(distances)):
        others = [index for index, origin in enumerate(origins) if row not in places or origin != places[row]]
        beside = MemoryBank(bank[others], place_weight=store.manifest(ref).place_weight)
        expected = beside.distance(normals[row : row + 1])[0]
        torch.testing.assert_close(distances[row], expected, atol=1e-6, rtol=0)
        local[row] = expected
    expected_scores = scale.of(smoothed(local, CALIBRATED.smoothing)).amax(-1).mean(-1).tolist()
    for picture, s_n in zip(calibration.pictures, expected_scores, strict=True):
        assert picture.s_n == pytest.approx(s_n, abs=tolerance(store, ref))
    (found,) = TripletScorer(CALIBRATED, store).score([EXTRAS[0]], [ref])
    assert calibration.pictures[2].score == pytest.approx(found.score, abs=tolerance(store, ref))


@pytest.mark.parametrize("known", [checks(0), checks(50)], ids=["a reference", "fed back before"])
def test_a_picture_that_is_in_the_bank_changes_nothing(store: CategoryStore, known: Picture) -> None:
    judge_normal(store, checks(50))
    before = {key: store.objects.get(key) for key in store.objects.keys("")}
    assert judge_normal(store, known, by="somebody else") == store.current("board")
    assert {key: store.objects.get(key) for key in store.objects.keys("")} == before


def test_feedback_is_undone_by_a_rollback_and_attributed_for_ever(store: CategoryStore) -> None:
    before = store.current("board")
    first = judge_normal(store, checks(50), by="ada")
    assert store.rollback("board") == before
    second = judge_normal(store, checks(50), by="grace")
    assert second != first
    assert [said.by for said in store.manifest(first).feedback] == ["ada"]
    assert [said.by for said in store.manifest(second).feedback] == ["grace"]
    assert [said.by for said in store.feedback("board")] == ["ada", "grace"]


@pytest.mark.parametrize("wrong", range(3))
def test_what_is_withdrawn_leaves_a_version_that_never_knew_it(
    store: CategoryStore, onboarded: Path, tmp_path: Path, wrong: int
) -> None:
    pictures = [stripes(1), checks(40), checks(41)]
    shutil.copytree(onboarded, tmp_path / "other")
    other = CategoryStore((tmp_path / "other").as_uri())
    for picture in pictures:
        before = judge_normal(store, picture)
    for picture in pictures[:wrong] + pictures[wrong + 1 :]:
        expected = judge_normal(other, picture)
    after = withdraw(store, pictures[wrong], by="grace", note="it was a crack")
    assert store.current("board") == after
    assert store.manifest(after).blobs == other.manifest(expected).blobs
    assert (store.manifest(after).parent, store.pointer("board").history[-1]) == (before.version, before.version)
    said = store.feedback("board")
    assert [one.verdict for one in said] == ["normal"] * 3 + ["withdrawn"]
    assert (said[-1].by, said[-1].note, said[-1].picture) == ("grace", "it was a crack", said[wrong].picture)
    assert store.rollback("board") == before


def test_what_is_withdrawn_may_be_said_to_be_normal_again(store: CategoryStore) -> None:
    before = store.current("board")
    judge_normal(store, stripes(3))
    withdrawn = withdraw(store, stripes(3))
    assert store.manifest(withdrawn).blobs == store.manifest(before).blobs
    foundation = load_foundation(CALIBRATED)
    references = References(foundation, store)
    query = images.resize(stripes(3), CALIBRATED.diffusion.resolution)
    features = encode(foundation, [query])[0]
    assert not np.array_equal(references.nearest(features, withdrawn), query)
    for reference in (checks(0), checks(1)):
        assert np.array_equal(references.nearest(encode(foundation, [reference])[0], withdrawn), reference)
    again = judge_normal(store, stripes(3), by="grace")
    assert len(store.calibration(again).scores) == len(store.calibration(before).scores) + 1
    assert np.array_equal(references.nearest(features, again), query)
    assert [said.by for said in store.manifest(again).fed_back] == ["grace"]
    assert withdraw(store, stripes(3)) not in (before, withdrawn, again)
    known = onboard("board", [checks(0), checks(1)], CALIBRATED, store, more_normal=EXTRAS)
    assert known.unchanged


def test_what_is_withdrawn_twice_is_withdrawn_once(store: CategoryStore) -> None:
    judge_normal(store, stripes(3))
    after = withdraw(store, stripes(3))
    before = {key: store.objects.get(key) for key in store.objects.keys("")}
    assert withdraw(store, stripes(3), by="somebody else") == after
    assert {key: store.objects.get(key) for key in store.objects.keys("")} == before


@pytest.mark.parametrize("fed_back", [False, True], ids=["as it was given", "fed back since"])
def test_a_further_normal_picture_leaves_the_calibration(
    store: CategoryStore, onboarded: Path, tmp_path: Path, fed_back: bool
) -> None:
    shutil.copytree(onboarded, tmp_path / "other")
    other = CategoryStore((tmp_path / "other").as_uri())
    fewer = onboard("board", [checks(0), checks(1)], CALIBRATED, other, more_normal=[EXTRAS[0], *EXTRAS[2:]]).ref
    if fed_back:
        judge_normal(store, EXTRAS[1])
    assert store.manifest(withdraw(store, EXTRAS[1])).blobs == other.manifest(fewer).blobs
    expected = judge_normal(other, stripes(3))
    assert store.manifest(judge_normal(store, stripes(3))).blobs == other.manifest(expected).blobs
    after = withdraw(store, EXTRAS[2])
    assert [known.origin for known in store.calibration(after).pictures].count("extra") == 2
    assert onboard("board", [checks(0), checks(1)], CALIBRATED, store, more_normal=EXTRAS).unchanged


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (checks(0), "is a reference of version .*: onboard the category without it"),
        (stripes(9), "is none of the normal pictures of version .*: there is nothing to withdraw"),
    ],
    ids=["a reference", "unknown"],
)
def test_only_what_is_among_the_further_normal_pictures_can_be_withdrawn(
    store: CategoryStore, picture: Picture, told: str
) -> None:
    before = judge_normal(store, stripes(3))
    with pytest.raises(RequestError, match=f"feedback on board: a picture with these pixels {told}"):
        withdraw(store, picture)
    assert store.current("board") == before


@pytest.mark.parametrize("roots", [(None, None), (None, 1)], ids=["none", "a later one"])
def test_versions_that_do_not_tell_what_onboarding_made_are_withdrawn_from(
    store: CategoryStore, roots: tuple[int | None, ...]
) -> None:
    """As they were stored before there was `onboarded`, and after."""
    chain = [store.current("board")]
    for picture, root in zip((stripes(1), checks(40)), roots, strict=True):
        manifest = store.manifest(judge_normal(store, picture))
        onboarded = None if root is None else chain[root].version
        chain.append(store.publish(manifest.model_copy(update={"onboarded": onboarded, "parent": chain[-1].version})))
    after = store.manifest(withdraw(store, stripes(1)))
    assert [said.picture for said in after.fed_back] == [images.digest(checks(40))]
    assert len(tensor(store, after.ref, "references")) == 3
    assert store.manifest(withdraw(store, checks(40))).blobs == store.manifest(chain[0]).blobs


def test_without_the_version_of_before_nothing_can_be_withdrawn(store: CategoryStore) -> None:
    """As where an earlier O2N has collected it."""
    before = store.current("board")
    after = judge_normal(store, stripes(3))
    store.objects.delete(f"categories/board/versions/{before.version}.json")
    with pytest.raises(NotFoundError, match=f"version {before.version} of board, .* is not there any more: roll back"):
        withdraw(store, stripes(3))
    assert store.current("board") == after


def test_a_bank_with_a_budget_is_without_what_is_withdrawn(tmp_path: Path) -> None:
    store = CategoryStore((tmp_path / "store").as_uri())
    pool = QUICK.pool.model_copy(update={"budget": 200_000})
    profile = CALIBRATED.model_copy(update={"pool": pool})
    before = onboard("board", [checks(0), checks(1)], profile, store).ref
    foundation = load_foundation(profile)

    def judge(picture: Picture) -> VersionRef:
        ref = store.current("board")
        (found,) = TripletScorer(profile, store).score([picture], [ref])
        features = encode(foundation, [images.resize(picture, profile.diffusion.resolution)])[0].numpy()
        return accept_normal(store, foundation, ref, picture, features, found.s_p, found.s_text, "ada")

    expected = store.manifest(judge(checks(40))).blobs
    kept, more = (tensor(store, ref, "kept").shape[1] for ref in (before, store.current("board")))
    assert more == kept + tensor(store, before, "features").shape[2]
    store.rollback("board")
    judge(stripes(1))
    judge(checks(40))
    assert store.manifest(withdraw(store, stripes(1))).blobs == expected
    assert store.manifest(withdraw(store, checks(40))).blobs == store.manifest(before).blobs


def test_of_feedbacks_at_once_none_is_lost(store: CategoryStore) -> None:
    before, pictures = store.current("board"), [checks(seed) for seed in range(60, 66)]
    foundation, start = load_foundation(CALIBRATED), threading.Barrier(len(pictures))
    scores = TripletScorer(CALIBRATED, store).score(pictures, [before] * len(pictures))
    features = encode(foundation, pictures).numpy()

    def judge(index: int) -> None:
        start.wait()
        found = scores[index]
        accept_normal(
            CategoryStore(store.url),
            foundation,
            before,
            pictures[index],
            features[index],
            found.s_p,
            found.s_text,
            f"inspector {index}",
        )

    with ThreadPoolExecutor(len(pictures)) as threads:
        list(threads.map(judge, range(len(pictures))))
    last = store.manifest(store.current("board"))
    assert last.onboarded == before.version
    assert sorted(said.by for said in last.feedback) == [f"inspector {index}" for index in range(len(pictures))]
    assert len(store.calibration(last.ref).scores) == 6 + len(pictures)
    assert len(tensor(store, last.ref, "features")) == len(bank_origins(2, CALIBRATED)) + len(pictures)
    assert len(store.pointer("board").history) == len(pictures)


def test_a_verdict_on_an_answer_from_before_the_category_was_onboarded_anew_is_refused(store: CategoryStore) -> None:
    before = store.current("board")
    now = onboard("board", [checks(2), checks(3)], CALIBRATED, store).ref
    with pytest.raises(ConflictError, match="onboarded anew since version"):
        judge_normal(store, checks(50), before)
    assert store.current("board") == now


def test_a_verdict_with_the_models_of_another_profile_is_refused(store: CategoryStore) -> None:
    with pytest.raises(FoundationError, match="use its own profile"):
        accept_normal(
            store,
            load_foundation(QUICK),
            store.current("board"),
            checks(50),
            np.zeros((3, 256, 128), np.float32),
            0.0,
            0.0,
            "ada",
        )


def test_an_anomalous_picture_is_kept_and_nothing_else_changes(store: CategoryStore) -> None:
    ref = store.current("board")
    assert keep_anomalous(store, ref, stripes(5), "ada", "a scratch") is None
    assert store.current("board") == ref
    assert store.pointer("board").history == []
    (said,) = store.feedback("board")
    assert (said.verdict, said.by, said.note, said.version) == ("anomalous", "ada", "a scratch", ref.version)
    assert said.blob is not None
    assert np.array_equal(images.decode(store.get_blob(said.blob)), stripes(5))
    for by, note in (("", None), ("x" * 129, None), ("ada", "x" * 1025)):
        with pytest.raises(RequestError, match=r"feedback on board: (by|note): "):
            keep_anomalous(store, ref, stripes(5), by, note)
    assert store.feedback("board") == [said]
    with pytest.raises(NotFoundError):
        keep_anomalous(store, VersionRef("board", "0" * 16), stripes(5), "ada")
