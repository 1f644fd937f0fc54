"""The conformal arithmetic: what is promised is kept, and threshold and p-value say the same."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from o2n.calibration import Calibration, NormalPicture, decide, describe, least_rate, missing, p_value, threshold

# Few different values, so that ties are the rule.
SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
CALIBRATIONS = st.lists(SCORES, min_size=1, max_size=40).map(lambda scores: Calibration(scores=tuple(sorted(scores))))
RATES = st.one_of(
    st.floats(1e-4, 0.9999),
    st.integers(1, 99).map(lambda percent: percent / 100),
    st.integers(2, 41).map(lambda n: 1 / n),
)


def calibration(*scores: float) -> Calibration:
    return Calibration(scores=tuple(sorted(scores)))


def normal(score: float, picture: str = "0") -> NormalPicture:
    return NormalPicture(picture=picture * 64, origin="extra", score=score, s_p=score, s_n=0, s_text=0)


@given(CALIBRATIONS, SCORES)
def test_a_p_value_is_one_over_n_plus_one_at_least_and_one_at_most(made: Calibration, score: float) -> None:
    n = len(made.scores)
    assert least_rate(made) == 1 / (n + 1) <= p_value(score, made) <= 1
    assert p_value(score, made) == (1 + sum(c >= score for c in made.scores)) / (n + 1)


@given(CALIBRATIONS, SCORES, SCORES)
def test_a_higher_score_has_no_higher_p_value(made: Calibration, one: float, other: float) -> None:
    assert p_value(max(one, other), made) <= p_value(min(one, other), made)


@given(CALIBRATIONS, RATES, RATES)
def test_a_higher_rate_has_no_higher_threshold(made: Calibration, one: float, other: float) -> None:
    strict, lenient = threshold(made, min(one, other)), threshold(made, max(one, other))
    assert strict is None or (lenient is not None and lenient <= strict)


@given(CALIBRATIONS, SCORES, RATES)
def test_threshold_and_p_value_say_the_same(made: Calibration, score: float, rate: float) -> None:
    for value in (score, *made.scores):
        limit = threshold(made, rate)
        assert (limit is not None and value > limit) == (p_value(value, made) <= rate)


@given(st.integers(1, 300), st.integers(1, 99))
def test_the_threshold_is_the_score_of_the_conformal_rank(n: int, percent: int) -> None:
    made = calibration(*map(float, range(1, n + 1)))
    rank = math.ceil((n + 1) * (1 - Fraction(percent, 100)))
    assert threshold(made, percent / 100) == (rank if rank <= n else None)


@given(CALIBRATIONS, RATES)
def test_of_the_pictures_and_one_more_no_more_than_the_rate_are_anomalous(made: Calibration, rate: float) -> None:
    """Leave each out in turn: exchangeability makes the share of those that are called anomalous the probability."""
    scores = [*made.scores, made.scores[-1]]
    alarms = sum(
        p_value(score, calibration(*scores[:index], *scores[index + 1 :])) <= rate for index, score in enumerate(scores)
    )
    assert alarms / len(scores) <= rate


@given(CALIBRATIONS, SCORES, RATES)
def test_a_decision_is_made_at_the_rate_asked_for_or_the_least_that_can_be_promised(
    made: Calibration, score: float, rate: float
) -> None:
    decision = decide(score, made, rate)
    assert decision.false_positive_rate == max(rate, least_rate(made))
    assert decision.is_anomalous == (decision.p_value <= decision.false_positive_rate) == (score > decision.threshold)
    assert (decision.note is None) == (threshold(made, rate) is not None) == (missing(made, rate) == 0)


@given(CALIBRATIONS, RATES)
def test_what_is_missing_is_enough_and_no_more(made: Calibration, rate: float) -> None:
    if more := missing(made, rate):
        assert threshold(calibration(*made.scores, *[0.0] * more), rate) is not None
        assert threshold(calibration(*made.scores, *[0.0] * (more - 1)), rate) is None


def test_what_cannot_be_promised_is_said() -> None:
    decision = decide(2.5, calibration(1, 2, 3, 4), 0.05)
    assert decision.note == (
        "a false-positive rate of 5% cannot be promised with 4 normal pictures: decided at 20%; 15 more are needed"
    )
    assert (decision.threshold, decision.p_value, decision.is_anomalous) == (4, 3 / 5, False)
    assert decide(4.1, calibration(1, 2, 3, 4), 0.05).is_anomalous


def test_what_it_was_made_of_and_what_it_promises_is_said_in_a_line() -> None:
    assert describe(calibration(1), 0.5) == (
        "calibrated on 1 normal picture: false-positive rates from 50% can be promised"
    )
    pictures = [normal(1, "0"), normal(2, "1").model_copy(update={"origin": "reference"})]
    assert describe(Calibration.of(pictures), 0.05) == (
        "calibrated on 2 normal pictures (1 reference, 1 extra): "
        "false-positive rates from 33.3% can be promised; for 5%, 17 more are needed"
    )
    assert "because the models have seen the references" in describe(Calibration.of(pictures[1:]), 0.05)


def test_a_score_equal_to_the_highest_is_not_anomalous() -> None:
    assert not decide(4, calibration(1, 2, 3, 4), 0.2).is_anomalous


@pytest.mark.parametrize("n", [9, 19, 60])
@pytest.mark.parametrize("decimals", [0, 12])
def test_the_promised_rate_is_kept_over_a_thousand_calibrations(n: int, decimals: int) -> None:
    """And where there are no ties, as nearly as n pictures allow: ⌊rate·(n+1)⌋/(n+1) of new pictures are anomalous."""
    rng = np.random.default_rng(n)
    for rate in (0.05, 0.1, 0.2):
        realised = []
        for _ in range(1000):
            drawn = rng.lognormal(size=n + 200).round(decimals)
            limit = threshold(calibration(*drawn[:n]), rate)
            realised.append(0.0 if limit is None else float((drawn[n:] > limit).mean()))
        error = 4 * np.std(realised) / 1000**0.5
        assert np.mean(realised) <= rate + error
        if decimals:
            assert np.mean(realised) == pytest.approx(math.floor(rate * (n + 1) + 1e-9) / (n + 1), abs=error + 1e-12)


def test_it_survives_json() -> None:
    made = Calibration.of([normal(0.1 + 0.2, "0"), normal(-1e-17, "1")])
    assert made.scores == (-1e-17, 0.1 + 0.2)
    assert Calibration.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    "change",
    [
        {"scores": []},
        {"scores": [2, 1]},
        {"scores": [float("nan")]},
        {"scores": [1], "more": 1},
        {"scores": [1], "pictures": [normal(2).model_dump()]},
        {"scores": [1, 2], "pictures": [normal(2).model_dump()]},
    ],
)
def test_what_is_no_calibration_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Calibration.model_validate(change)
