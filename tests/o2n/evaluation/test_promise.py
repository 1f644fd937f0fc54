"""Promised rates on real scores of pictures: two onboardings, a thousand calibrations."""

from pathlib import Path

import pytest

from o2n.evaluation.promise import NormalScores, normal_scores, realised
from o2n.profiles import Profile
from o2n.store import CategoryStore
from tests.helpers import QUICK

CALIBRATED: Profile = QUICK.model_copy(update={"fusion": "calibrated"})


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> list[NormalScores]:
    folder: Path = tmp_path_factory.mktemp("promise")
    return [normal_scores("chip", draw, CALIBRATED, CategoryStore(folder.as_uri()), others=60) for draw in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "extras"), [(0.05, 19), (0.1, 19), (0.2, 19), (0.1, 30)])
def test_the_rate_that_is_promised_with_extra_pictures_is_kept(
    scored: list[NormalScores], rate: float, extras: int
) -> None:
    found = realised(scored, rate, extras, with_references=False)
    assert found.promised == rate
    assert found.realised <= rate + 4 * found.deviation / 1000**0.5
    # No more careful than a rank among so few pictures has to be.
    assert found.realised >= int(rate * (extras + 1) + 1e-9) / (extras + 1) - 4 * found.deviation / 1000**0.5


def test_what_is_promised_with_references_alone_is_the_least_there_is(scored: list[NormalScores]) -> None:
    assert [len(scores.references) for scores in scored] == [4, 4]
    found = realised(scored, 0.05, 0, with_references=True, calibrations=2)
    assert found.promised == 0.2


def test_references_bend_a_promise_no_further_than_their_share(scored: list[NormalScores]) -> None:
    """However low their scores, they bring the threshold down by as many ranks as they add to n at most."""
    found = realised(scored, 0.1, 30, with_references=True)
    assert found.realised <= 0.1 * 35 / 31 + 4 * found.deviation / 1000**0.5
