"""Scores of normal pictures -> thresholds, p-values, decisions. Plain arithmetic: knows no pictures and no models.

Split-conformal prediction (Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World", 2005; for outliers Bates
et al., "Testing for outliers with conformal p-values", 2023). If the next normal picture's score is exchangeable with
the n calibration scores, its p-value is at most `rate` with a probability of at most `rate`, however scores are
distributed and however good the models are. Three things that it does not say:

- Of n pictures the smallest p-value is 1/(n+1): below that rate nothing can be promised.
- The promise is kept on average over calibrations. One calibration of n pictures has a rate of its own, which is
  Beta(k, n+1-k) distributed where k = ⌊rate·(n+1)⌋: with n = 19 and 5% it exceeds 14% in one of twenty.
- It holds for pictures like those that were calibrated on: a new lamp or camera is a change that it does not know.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Origin = Literal["reference", "extra", "feedback"]
# The bound is far below what any number of pictures can promise, and above where 1 / rate is infinite.
Rate = Annotated[float, Field(ge=1e-9, lt=1, description="share of normal pictures that may be called anomalous")]


class NormalPicture(BaseModel):
    """One real normal picture and what it scored while it was not in the bank.

    Extra pictures were never seen by anything that was trained: they are exchangeable with every later normal picture,
    and calibrated on m of them alone, a rate is kept exactly. References are not quite: the adapter was trained to
    redraw them, so their S_P is too small, and S_N leaves them out of the bank, which is then smaller than the one that
    serves, so their S_N is too large; what is usual at a place (`scales.usual_at`) leaves them out likewise. Among m
    extra pictures, r references make no rate worse than (m+r+1)/(m+1) times itself, however low they score; alone they
    promise nothing exactly (`jobs/evaluate_promise.py` measures what comes of it). Pictures that an inspector fed back
    are chosen, mostly among the highest scores: they raise thresholds, and false alarms become rarer than promised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str = Field(pattern=r"^[0-9a-f]{64}$", description="`images.digest` of it at the version's resolution")
    origin: Origin
    score: FiniteFloat
    s_p: FiniteFloat
    s_n: FiniteFloat
    s_text: FiniteFloat


class Calibration(BaseModel):
    """Fused scores of real normal pictures, each as if it had not been in the bank. Generated pictures never count.

    scores: ascending. pictures: where each comes from, in the order in which they came; empty if nobody knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: tuple[FiniteFloat, ...] = Field(min_length=1)
    pictures: tuple[NormalPicture, ...] = ()

    @classmethod
    def of(cls, pictures: Iterable[NormalPicture]) -> "Calibration":
        """The calibration that these pictures make."""
        kept = tuple(pictures)
        return cls(scores=tuple(sorted(picture.score for picture in kept)), pictures=kept)

    @model_validator(mode="after")
    def _check(self) -> "Calibration":
        of_pictures = [picture.score for picture in self.pictures]
        if list(self.scores) != sorted(of_pictures or self.scores):
            raise ValueError("scores: are not ascending, or not those of the pictures")
        return self


@dataclass(frozen=True)
class Decision:
    """What a score means beside the scores of normal pictures.

    false_positive_rate: the share of normal pictures that this decision calls anomalous at most; the requested one, or
    the least that can be promised, and then `note` says so. threshold: scores above it are anomalous.
    """

    p_value: float
    threshold: float
    is_anomalous: bool
    false_positive_rate: float
    note: str | None

    def values(self) -> dict[str, float | bool]:
        """What answers, tables and lines of JSON carry of it, by name."""
        return {
            "p_value": self.p_value,
            "threshold": self.threshold,
            "is_anomalous": self.is_anomalous,
            "false_positive_rate": self.false_positive_rate,
        }


def p_value(score: float, calibration: Calibration) -> float:
    """The conformal p-value (1 + #{c >= score}) / (n + 1) of a picture, in [1/(n+1), 1]; small is anomalous."""
    n = len(calibration.scores)
    return (1 + n - bisect_left(calibration.scores, score)) / (n + 1)


def threshold(calibration: Calibration, rate: float) -> float | None:
    """The score above which a picture is anomalous, so that at most `rate` of normal pictures are.

    It is the ⌈(n+1)(1-rate)⌉-th smallest calibration score, and `score > threshold` says the same as
    `p_value <= rate`. None where rate < 1/(n+1): nothing can be promised.

    Args: rate: in (0, 1).
    """
    n = len(calibration.scores)
    rank = math.floor(rate * (n + 1)) + 1
    # The very comparison that a p-value would be put to: 0.29 * 100 is less than 29, and 29 / 100 is 0.29.
    while rank / (n + 1) > rate:
        rank -= 1
    return calibration.scores[n - rank] if rank else None


def least_rate(calibration: Calibration) -> float:
    """1/(n+1), the least false-positive rate that can be promised."""
    return 1 / (len(calibration.scores) + 1)


def missing(calibration: Calibration, rate: float) -> int:
    """How many more normal pictures it takes before `rate` can be promised; 0 if it can."""
    n = len(calibration.scores)
    needed = max(n, math.ceil(1 / rate) - 2)
    while 1 / (needed + 1) > rate:
        needed += 1
    return needed - n


def shortfall(calibration: Calibration, rate: float) -> str | None:
    """One sentence where `rate` cannot be promised: what is promised instead, and what it takes; else None."""
    more, n = missing(calibration, rate), len(calibration.scores)
    if not more:
        return None
    return (
        f"a false-positive rate of {100 * rate:g}% cannot be promised with {_counted(n)}: "
        f"decided at {100 * least_rate(calibration):.3g}%; {more} more are needed"
    )


def describe(calibration: Calibration, rate: float) -> str:
    """One line: how many normal pictures there are and from where, and what can be promised with them."""
    origins = [picture.origin for picture in calibration.pictures]
    counts = [
        f"{origins.count(origin)} {word}{'s' * (origins.count(origin) != 1 and origin == 'reference')}"
        for origin, word in (("reference", "reference"), ("extra", "extra"), ("feedback", "fed back"))
        if origin in origins
    ]
    more, kinds = missing(calibration, rate), ", ".join(counts)
    only = "; roughly, because the models have seen the references" if set(origins) == {"reference"} else ""
    return (
        f"calibrated on {_counted(len(calibration.scores))}{f' ({kinds})' if kinds else ''}: "
        f"false-positive rates from {100 * least_rate(calibration):.3g}% can be promised{only}"
        f"{f'; for {100 * rate:g}%, {more} more are needed' if more else ''}"
    )


def decide(score: float, calibration: Calibration, rate: float) -> Decision:
    """Call a picture anomalous or not, at the false-positive rate asked for or the least that can be promised.

    Args: rate: in (0, 1).
    """
    promised = max(rate, least_rate(calibration))
    limit = threshold(calibration, promised)
    assert limit is not None
    return Decision(p_value(score, calibration), limit, score > limit, promised, shortfall(calibration, rate))


def _counted(n: int) -> str:
    return f"{n} normal picture{'s' * (n != 1)}"
