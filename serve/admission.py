"""How many pictures a gateway takes on: as many as can be answered in time, the others are told when to come again."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from o2n.errors import OverloadedError, UnavailableError
from serve import metrics

# A queue may take this share of a request's time: pictures differ in cost, and the pace is an estimate.
SHARE = 0.5
# Always admitted, or there would be nothing to measure the pace by: one at work and one to follow it.
LEAST = 2
# As many until the first are answered: of a crowd that came before the pace is known, all might be late.
FIRST = 8
# Never more than this: beside its query, a picture in flight is held at up to 1024 pixels a side, 3 MB.
MOST = 256
# Pictures that the pace is measured over.
WINDOW = 32


class Admission:
    """Counts the pictures in flight in one gateway, and measures at what pace they are answered."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: seconds: in which a request is to be answered."""
        self.in_flight = 0
        self.draining = False
        self._seconds, self._clock = seconds, clock
        self._busy, self._since = 0.0, 0.0  # seconds with pictures in flight until now, or until `since`
        self._answered: deque[tuple[float, int]] = deque([(0.0, 0)])  # when, in busy seconds, and how many

    def check(self, pictures: int = 1) -> None:
        """Say at once whether that many more pictures could be answered in time.

        Raises:
            OverloadedError: they could not.
            UnavailableError: the service is shutting down.
        """
        if self.draining:
            raise UnavailableError("the service is shutting down: send the request again, to one that is not")
        wanted = self.in_flight + pictures
        if self.in_flight == 0 or wanted <= LEAST:
            return
        pace, most = self.seconds_per_picture(), MOST if len(self._answered) > 1 else FIRST
        over = max(wanted * pace - SHARE * self._seconds, (wanted - most) * pace)
        if over > 0 or wanted > most:
            wait = max(1, math.ceil(over))
            raise OverloadedError(
                f"{self.in_flight} pictures are waiting, more cannot be scored in time: send it again in {wait} s", wait
            )

    @contextmanager
    def admitted(self, pictures: int) -> Iterator[None]:
        """Within it, that many pictures are in flight; raises as `check`."""
        self.check(pictures)
        if self.in_flight == 0:
            self._since = self._clock()
        self.in_flight += pictures
        metrics.IN_FLIGHT.set(self.in_flight)
        try:
            yield
            self._answered.append((self._busy_seconds(), pictures))
            while sum(count for _, count in self._answered) - self._answered[0][1] > WINDOW and len(self._answered) > 2:
                self._answered.popleft()
        finally:
            self._busy = self._busy_seconds()
            self._since = self._clock()
            self.in_flight -= pictures
            metrics.IN_FLIGHT.set(self.in_flight)

    def seconds_per_picture(self) -> float:
        """The pace of the last pictures, over the time that there were any; while none is answered, of one at best."""
        begun, answered = self._answered[0][0], sum(count for _, count in list(self._answered)[1:])
        return (self._busy_seconds() - begun) / max(1, answered)

    def _busy_seconds(self) -> float:
        return self._busy + (self._clock() - self._since if self.in_flight else 0.0)
