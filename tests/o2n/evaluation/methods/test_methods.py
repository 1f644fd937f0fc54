"""What holds for every method: plain defects stand out, and company, order and size decide nothing they must not."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from o2n import images
from o2n.errors import FoundationError
from o2n.evaluation.methods import METHODS, Method
from o2n.evaluation.methods.inctrl import InCTRL
from o2n.evaluation.methods.interface import Fitted, Scores
from o2n.evaluation.methods.regad import RegAD
from o2n.evaluation.metrics import auroc
from o2n.evaluation.protocol import SEEN_BY_OTHERS
from o2n.images import Picture
from o2n.profiles import PAPER, Profile
from tests.helpers import QUICK, checks
from tests.o2n.evaluation.methods.conftest import FEWER

BRINGS_WEIGHTS = ("anomaly-dino", "nearest-patch-dino")
Get = Callable[[str], Method]


@pytest.fixture(scope="module")
def get(request: pytest.FixtureRequest) -> Get:
    """A method by its name; those that are trained, trained on less."""
    return lambda name: request.getfixturevalue(name) if name in ("regad", "inctrl") else METHODS[name](QUICK)


@pytest.fixture(scope="module")
def fitted(get: Get) -> Callable[[str], Fitted]:
    """The same, fitted to the references."""
    return functools.cache(lambda name: get(name).fit(REFERENCES, "chequered board"))


@pytest.fixture(scope="module")
def scored(fitted: Callable[[str], Fitted]) -> Callable[[str], Scores]:
    """What it says of the queries."""
    return functools.cache(lambda name: fitted(name).score(QUERIES))


without_weights = [name for name in METHODS if name not in BRINGS_WEIGHTS and not name.startswith("anomalib-")]
every_method = pytest.mark.parametrize("name", without_weights)


def spoilt(seed: int) -> Picture:
    """Chequers with a spot where they should go on."""
    picture = checks(seed)
    picture[20:38, 24:42] = (200, 30, 30)
    return picture


REFERENCES = [checks(seed) for seed in range(4)]
QUERIES = [checks(seed) for seed in range(4, 10)] + [spoilt(seed) for seed in range(10, 16)]
LABELS = np.arange(12) >= 6


@every_method
def test_a_plain_defect_scores_above_good_parts(name: str, scored: Callable[[str], Scores]) -> None:
    scores = scored(name).scores
    assert scores.shape == (12,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    # Whole pictures differ more by where the squares begin than by the spot.
    assert auroc(scores, LABELS) > (0.6 if name == "nearest-picture" else 0.9)


@every_method
def test_a_map_is_highest_at_the_defect(name: str, scored: Callable[[str], Scores]) -> None:
    maps = scored(name).maps
    if maps is None:
        assert name in ("coop", "nearest-picture", "random-weights")
        return
    assert maps.dtype == np.float32
    count, height, width = maps.shape
    assert count == 12
    rows, columns = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    spot = (rows > 20 / 64) & (rows < 36 / 64) & (columns > 24 / 64) & (columns < 40 / 64)
    for one in maps[LABELS]:
        assert one[spot].mean() > one[~spot].mean()


@every_method
def test_the_company_a_picture_is_scored_in_changes_nothing(
    name: str, fitted: Callable[[str], Fitted], scored: Callable[[str], Scores]
) -> None:
    together, alone = scored(name), [fitted(name).score([query]) for query in QUERIES[4:8]]
    np.testing.assert_allclose([one.scores[0] for one in alone], together.scores[4:8], rtol=1e-4, atol=1e-6)
    if together.maps is not None:
        maps = [one.maps[0] for one in alone if one.maps is not None]
        np.testing.assert_allclose(maps, together.maps[4:8], rtol=1e-3, atol=1e-4)


@every_method
def test_the_order_of_the_references_changes_nothing(name: str, get: Get, scored: Callable[[str], Scores]) -> None:
    back = get(name).fit(REFERENCES[::-1], "chequered board").score(QUERIES)
    np.testing.assert_allclose(scored(name).scores, back.scores, rtol=1e-4, atol=1e-6)


@every_method
def test_pictures_of_any_sizes_are_taken(name: str, get: Get) -> None:
    wide = [images.resize(picture, 96)[:, :80] for picture in REFERENCES[:2]]
    scored = get(name).fit([REFERENCES[2], *wide], "chequered board").score([checks(9), checks(8, 50, 70)])
    assert np.isfinite(scored.scores).all()


@pytest.mark.parametrize("name", BRINGS_WEIGHTS)
def test_weights_that_a_user_must_bring_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("O2N_DINO", raising=False)
    with pytest.raises(FoundationError, match=r"weights of a DINOv2 .* set O2N_DINO to .* vit_small_patch14_dinov2"):
        METHODS[name](QUICK)


@every_method
def test_of_a_profile_it_sees_no_more_than_its_digest_hangs_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = PAPER.model_copy(
        update={
            **{field: getattr(QUICK, field) for field in SEEN_BY_OTHERS},
            "diffusion": QUICK.diffusion.model_copy(update={"steps": 9}),
            "pool": PAPER.pool.model_copy(update={"warps": QUICK.pool.warps}),
        }
    )
    trained: dict[str, Callable[[Profile], Method]] = {
        "regad": lambda profile: RegAD(profile, FEWER, steps=5),
        "inctrl": lambda profile: InCTRL(profile, FEWER, epochs=2),
    }
    scores = []
    for profile in (QUICK, same):
        # A cache of its own each: what the other was trained to would be the same, whatever either saw.
        monkeypatch.setenv("O2N_CACHE", str(tmp_path / str(len(scores))))
        method = trained.get(name, METHODS[name])(profile)
        scores.append(method.fit(REFERENCES, "chequered board").score(QUERIES).scores)
    np.testing.assert_array_equal(*scores)
