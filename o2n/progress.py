"""The log of a run of many categories: lines that read well in a terminal and in a file, and not too many of them."""

import time
from collections.abc import Callable

from o2n.category_worker import Outcome
from o2n.fanout import Running, State

STATUS_SECONDS = 5.0  # between two lines of where all are; later a hundredth of the time that has passed
OUTCOMES_AT_ONCE = 10
RUNNING_SHOWN = 6


class ProgressLog:
    """Says how each category ended, and from time to time where all are."""

    def __init__(self, say: Callable[[str], None], needs: str) -> None:
        """Args: say: takes a line; needs: what each worker takes, in words."""
        self._say, self._needs = say, needs
        self._begun = self._told = time.monotonic()
        self._outcomes = self._losses = 0

    def __call__(self, state: State) -> None:
        new = sorted(state.done[self._outcomes :], key=lambda outcome: outcome.error is None)
        self._outcomes = len(state.done)
        losses, self._losses = state.losses[self._losses :], len(state.losses)
        place = f"[{len(state.done)}/{state.total}]"
        for loss in losses[:OUTCOMES_AT_ONCE]:
            self._say(f"{place} {loss}")
        for outcome in new[:OUTCOMES_AT_ONCE]:
            self._say(f"{place} {outcome.category}: {_outcome(outcome)}")
            for warning in outcome.warnings:
                self._say(f"{place} {outcome.category}: warning: {warning}")
        if len(new) > OUTCOMES_AT_ONCE:
            self._say(f"{place} and {len(new) - OUTCOMES_AT_ONCE} more")
        now = time.monotonic()
        if state.waiting + len(state.running) and now - self._told > max(STATUS_SECONDS, (now - self._begun) / 100):
            self._told = now
            self._say(f"{place} {self._status(state, now - self._begun)}")

    def _status(self, state: State, passed: float) -> str:
        failed = sum(outcome.error is not None for outcome in state.done)
        counts = [
            f"{len(state.running)} running",
            f"{state.waiting} waiting",
            *([f"{failed} failed"] if failed else []),
            *([f"{len(state.losses)} lost workers"] if state.losses else []),
            f"{clock(passed)} passed",
        ]
        took = [sum(outcome.seconds.values()) for outcome in state.done if outcome.status == "published"]
        if took and state.running:
            left = (state.waiting + len(state.running) / 2) * sum(took) / len(took) / len(state.running)
            counts.append(f"about {clock(left)} left")
        if not state.running:
            return f"{', '.join(counts)}: no room yet for a worker, which takes {self._needs}"
        shown = [_running(running) for running in state.running[:RUNNING_SHOWN]]
        if more := len(state.running) - len(shown):
            shown.append(f"{more} more")
        return f"{', '.join(counts)}: {', '.join(shown)}"


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any: 0:07, 12:30, 3:00:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _outcome(outcome: Outcome) -> str:
    if outcome.error:
        return f"error: {outcome.error.message}"
    version = f" version {outcome.version}" if outcome.version else ""
    notes = [f"{sum(outcome.seconds.values()):.1f} s"]
    if outcome.status == "resumes":
        notes.append(f"to do: {', '.join(outcome.missing) or 'publish'}")
    elif outcome.status == "published" and "adapter" in outcome.resumed:  # what comes before is its class's
        notes.append(f"resumed after {outcome.resumed[-1]}")
    return f"{outcome.status}{version} ({'; '.join(notes)})"


def _running(running: Running) -> str:
    share = f" {running.share:.0%}" if 0 < running.share < 1 else ""
    return f"{running.source.name} {running.stage}{share}"
