"""The log of many categories: who ended how, where the others are, and never a flood of lines."""

import pytest

from o2n import progress
from o2n.category_worker import Failure, Outcome
from o2n.fanout import Running, State
from o2n.progress import ProgressLog, clock
from o2n.sources import Source
from tests.helpers import QUICK


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def published(number: int) -> Outcome:
    return Outcome(category=f"c{number}", status="published", version="0" * 16, seconds={"prior": 2.0, "adapter": 8.0})


def running(number: int, stage: str = "adapter", share: float = 0.5) -> Running:
    return Running(Source(f"c{number}", "x", QUICK), stage, share)


def test_each_end_and_each_loss_is_said_once(now: list[float]) -> None:
    said: list[str] = []
    log = ProgressLog(said.append, "1 core")
    bad = Outcome(category="bad", status="failed", error=Failure(code="bad_picture", message="x.png: is no picture"))
    odd = published(2).model_copy(update={"warnings": ["reference 1 is odd"], "resumed": ["prior", "adapter", "pool"]})
    state = State(4, 0, [running(3)], [published(1), bad, odd], ["c3: its worker was lost: killed"])
    log(state)
    log(state)
    assert said == [
        "[3/4] c3: its worker was lost: killed",
        "[3/4] bad: error: x.png: is no picture",
        f"[3/4] c1: published version {'0' * 16} (10.0 s)",
        f"[3/4] c2: published version {'0' * 16} (10.0 s; resumed after pool)",
        "[3/4] c2: warning: reference 1 is odd",
    ]


def test_where_all_are_is_said_from_time_to_time_with_what_is_left(now: list[float]) -> None:
    said: list[str] = []
    log = ProgressLog(said.append, "1 core")
    log(State(10, 10, [], [], []))
    now[0] += 6
    log(State(10, 10, [], [], []))
    now[0] += 6
    log(State(10, 7, [running(1), running(2, "prior", 0.0)], [published(0)], ["c1: lost"]))
    assert said[0] == "[0/10] 0 running, 10 waiting, 0:06 passed: no room yet for a worker, which takes 1 core"
    # 7 that wait and half of the two that run, 10 s each, on two workers.
    assert said[-1] == (
        "[1/10] 2 running, 7 waiting, 1 lost workers, 0:12 passed, about 0:40 left: c1 adapter 50%, c2 prior"
    )


def test_ten_thousand_categories_in_ten_hours_make_few_lines(now: list[float]) -> None:
    said: list[str] = []
    log = ProgressLog(said.append, "1 core")
    for _ in range(36_000 // 2):
        now[0] += 2
        log(State(10_000, 5_000, [running(n) for n in range(500)], [], []))
    assert len(said) < 1_000
    assert max(map(len, said)) < 300
    said.clear()
    log(State(10_000, 0, [], [published(n) for n in range(10_000)], []))
    assert len(said) == 11
    assert said[-1] == "[10000/10000] and 9990 more"


def test_a_clock_reads_as_one() -> None:
    assert [clock(seconds) for seconds in (0.4, 7, 750, 10_800)] == ["0:00", "0:07", "12:30", "3:00:00"]
