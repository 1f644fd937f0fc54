"""Who is taken on, by the pace of those before; time is told by hand."""

import pytest

from o2n.errors import OverloadedError, UnavailableError
from serve.admission import FIRST, LEAST, MOST, Admission


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def serve_pictures(admission: Admission, clock: Clock, count: int, seconds: float) -> None:
    for _ in range(count):
        with admission.admitted(1):
            clock.now += seconds


def fill(admission: Admission) -> int:
    """How many single pictures it takes on at once."""
    taken = []
    try:
        while True:
            context = admission.admitted(1)
            context.__enter__()
            taken.append(context)
    except OverloadedError:
        return len(taken)


@pytest.mark.parametrize(("pace", "fit"), [(0.5, 30), (0.1, 150), (0.01, MOST), (100.0, LEAST)])
def test_as_many_as_fit_half_the_deadline(pace: float, fit: int) -> None:
    clock = Clock()
    admission = Admission(30.0, clock)
    serve_pictures(admission, clock, 100, pace)
    assert fill(admission) == fit


def test_before_anything_is_known_few_are_taken_on() -> None:
    clock = Clock()
    admission = Admission(30.0, clock)
    assert fill(admission) == FIRST


def test_a_crowd_that_is_all_late_teaches_it() -> None:
    clock = Clock()
    admission = Admission(4.0, clock)

    def all_late() -> None:
        with admission.admitted(FIRST):
            clock.now += 4.0
            raise TimeoutError

    with pytest.raises(TimeoutError):
        all_late()
    assert fill(admission) == LEAST
    admission.in_flight = 0
    serve_pictures(admission, clock, 100, 0.1)
    assert fill(admission) == 20


def test_the_refused_are_told_when_there_will_be_room() -> None:
    clock = Clock()
    admission = Admission(30.0, clock)
    serve_pictures(admission, clock, 100, 0.5)
    with admission.admitted(30):
        with pytest.raises(OverloadedError) as one, admission.admitted(1):
            pass
        with pytest.raises(OverloadedError, match="in 10 s") as many, admission.admitted(20):
            pass
    assert one.value.retry_after == 1
    assert many.value.retry_after == 10
    assert admission.in_flight == 0


def test_a_standstill_is_noticed_while_it_lasts() -> None:
    clock = Clock()
    admission = Admission(30.0, clock)
    serve_pictures(admission, clock, 100, 0.01)
    with admission.admitted(LEAST):
        admission.check()
        clock.now += 600
        with pytest.raises(OverloadedError):
            admission.check(LEAST)


def test_time_without_work_does_not_count() -> None:
    clock = Clock()
    admission = Admission(30.0, clock)
    serve_pictures(admission, clock, 100, 0.1)
    clock.now += 86_400
    assert admission.seconds_per_picture() == pytest.approx(0.1, rel=0.02)


def test_a_large_request_is_taken_on_where_nothing_else_is() -> None:
    clock = Clock()
    admission = Admission(1.0, clock)
    serve_pictures(admission, clock, 100, 1.0)
    with admission.admitted(64):
        assert admission.in_flight == 64


def test_what_failed_is_no_measure_of_the_pace() -> None:
    clock = Clock()
    admission = Admission(30.0, clock)
    serve_pictures(admission, clock, 100, 0.5)
    before = admission.seconds_per_picture()
    for _ in range(50):
        with pytest.raises(ValueError, match="broken"), admission.admitted(1):
            raise ValueError("broken")
    assert admission.seconds_per_picture() == pytest.approx(before)
    assert admission.in_flight == 0


def test_a_service_that_shuts_down_takes_on_nothing() -> None:
    admission = Admission(30.0)
    admission.draining = True
    with pytest.raises(UnavailableError), admission.admitted(1):
        pass
