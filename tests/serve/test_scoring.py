"""Pictures whose replicas are lost, late, full or wrong: the deployments' own classes in this process, failing as Ray
tells it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OwnerDiedError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from o2n.category import VersionRef
from o2n.errors import DeadlineError, IntegrityError, NotFoundError, O2NError, OverloadedError, UnavailableError
from o2n.images import resize
from o2n.onboard import onboard
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from serve.deployments import Encoder, NormalScorer, Personalizer, TextScorer, _Replica
from serve.scoring import ATTEMPTS, Branches
from tests.helpers import QUICK, checks, stripes
from tests.serve.conftest import Counting

BUDGET = 1 << 30


class Handle:
    """Calls a replica in this process as a handle does: arguments may be answers that are still to come.

    fails: what the next calls raise instead, each by its turn; None: nothing.
    """

    def __init__(self, replica: Any) -> None:
        self.replica = replica
        self.fails: list[BaseException | None] = []
        self.calls = 0
        self.deployment_name = type(replica).__name__

    def __getattr__(self, method: str) -> Any:
        return _Method(self, method)


class _Method:
    def __init__(self, handle: Handle, method: str) -> None:
        self._handle, self._method = handle, method

    def remote(self, *arguments: Any) -> "asyncio.Future[Any]":
        return asyncio.ensure_future(self._call(arguments))

    async def _call(self, arguments: tuple[Any, ...]) -> Any:
        self._handle.calls += 1
        failure = self._handle.fails.pop(0) if self._handle.fails else None
        given = [await argument if isinstance(argument, asyncio.Future) else argument for argument in arguments]
        if failure is not None:
            raise failure
        return await getattr(self._handle.replica, self._method)(*given)


class Deployed:
    def __init__(self, store: CategoryStore, profile: Profile = QUICK) -> None:
        self.encoder = Handle(Encoder(profile))
        self.personalizer = Handle(Personalizer(profile, store, BUDGET))
        self.normal = Handle(NormalScorer(profile, store, BUDGET, BUDGET))
        self.text = Handle(TextScorer(profile, store, BUDGET))
        handles: Any = (self.encoder, self.personalizer, self.normal, self.text)
        self.branches = Branches(profile, *handles, 60.0)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One for all tests: like a replica, a batch queue lives in one event loop."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def replicas(published: CategoryStore) -> "Deployed":
    return Deployed(published)


@pytest.fixture
def deployed(replicas: "Deployed") -> "Deployed":
    for handle in (replicas.encoder, replicas.personalizer, replicas.normal, replicas.text):
        handle.fails, handle.calls = [], 0
    handles: Any = (replicas.encoder, replicas.personalizer, replicas.normal, replicas.text)
    replicas.branches = Branches(QUICK, *handles, 60.0)
    return replicas


def in_task(cause: Exception) -> RayTaskError:
    """An error as it comes out of another process."""
    error: RayTaskError = RayTaskError("compare", "Traceback: …", cause).as_instanceof_cause()
    return error


def upstream() -> RayServeException:
    """What Serve makes of a result that was passed on by reference and died with its maker."""
    error = RayServeException("an upstream actor died")
    error.__cause__ = ActorDiedError()
    return error


LOST: dict[str, Callable[[], BaseException]] = {
    "died": ActorDiedError,
    "unavailable": lambda: ActorUnavailableError("busy dying", None),
    "died within a call": lambda: in_task(ActorDiedError()),
    "died with the features": upstream,
    "owner died": lambda: OwnerDiedError("0" * 56, None, ""),
    "stopped": TaskCancelledError,
    "cancelled by its stop": asyncio.CancelledError,
}


@pytest.mark.parametrize(
    ("deployment", "kind"),
    [
        *((deployment, "died") for deployment in ("encoder", "personalizer", "normal")),
        *(("text", kind) for kind in LOST),
    ],
)
def test_a_lost_picture_goes_round_again(
    loop: asyncio.Runner, deployed: Deployed, published: CategoryStore, deployment: str, kind: str
) -> None:
    ref = published.current("checks")
    (expected,) = TripletScorer(QUICK, published).score([checks(400)], [ref])

    async def main() -> None:
        handle = getattr(deployed, deployment)
        handle.fails = [LOST[kind](), LOST[kind]()]
        score = await deployed.branches.score(resize(checks(400), 64), ref, time.monotonic() + 60)
        assert score.score == pytest.approx(expected.score, abs=1e-5)
        assert score.ref == ref
        assert handle.calls == 3

    loop.run(main())


def test_what_is_always_lost_ends(loop: asyncio.Runner, deployed: Deployed, published: CategoryStore) -> None:
    async def main() -> None:
        deployed.normal.fails = [ActorDiedError() for _ in range(100)]
        with pytest.raises(UnavailableError, match="lost its replica"):
            await deployed.branches.score(resize(checks(1), 64), published.current("checks"), time.monotonic() + 60)
        assert deployed.normal.calls == ATTEMPTS

    loop.run(main())


def test_a_late_picture_is_told_so(loop: asyncio.Runner, deployed: Deployed, published: CategoryStore) -> None:
    async def main() -> None:
        ref = published.current("checks")
        with pytest.raises(DeadlineError, match="checks"):
            await deployed.branches.score(resize(checks(1), 64), ref, time.monotonic() - 1)
        deployed.text.fails = [ActorDiedError() for _ in range(100)]
        score = deployed.branches.score(resize(checks(1), 64), ref, time.monotonic() + 0.5)
        with pytest.raises((DeadlineError, UnavailableError)):
            await asyncio.wait_for(score, 30)

    loop.run(main())


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (BackPressureError(9, 8), OverloadedError),
        (in_task(BackPressureError(9, 8)), OverloadedError),
        (DeploymentUnavailableError("x"), UnavailableError),
        (in_task(IntegrityError("altered")), IntegrityError),
        (in_task(ZeroDivisionError()), ZeroDivisionError),
    ],
)
def test_other_errors_are_told_at_once(
    loop: asyncio.Runner, deployed: Deployed, published: CategoryStore, raised: Exception, told: type[Exception]
) -> None:
    async def main() -> None:
        deployed.personalizer.fails = [raised]
        with pytest.raises(told) as found:
            await deployed.branches.score(resize(checks(1), 64), published.current("checks"), time.monotonic() + 60)
        assert deployed.personalizer.calls == 1
        if isinstance(found.value, O2NError):
            assert "Traceback" not in str(found.value)

    loop.run(main())


def test_a_client_that_goes_away_is_not_retried(
    loop: asyncio.Runner, deployed: Deployed, published: CategoryStore
) -> None:
    async def main() -> None:
        ref = published.current("checks")
        scoring = asyncio.create_task(deployed.branches.score(resize(checks(1), 64), ref, time.monotonic() + 60))
        await asyncio.sleep(0)
        scoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scoring
        await asyncio.sleep(0.3)
        assert deployed.encoder.calls <= 1

    loop.run(main())


def test_mixed_adapters_in_one_batch_equal_one_by_one(
    loop: asyncio.Runner, deployed: Deployed, published: CategoryStore
) -> None:
    pictures = [resize(maker(seed), 64) for seed in range(500, 504) for maker in (checks, stripes)]
    refs = [published.current(name) for _ in range(4) for name in ("checks", "stripes")]

    async def main() -> None:
        branches = deployed.branches
        deadline = time.monotonic() + 300
        together = await asyncio.gather(
            *(branches.score(picture, ref, deadline) for picture, ref in zip(pictures, refs, strict=True))
        )
        for picture, ref, found in zip(pictures, refs, together, strict=True):
            alone = await branches.score(picture, ref, deadline)
            assert found.ref == alone.ref == ref
            assert found.score == pytest.approx(alone.score, abs=1e-5)

    loop.run(main())


def test_one_bad_version_fails_alone(loop: asyncio.Runner, deployed: Deployed, published: CategoryStore) -> None:
    good, gone = published.current("checks"), VersionRef("checks", "0" * 16)

    async def main() -> None:
        branches = deployed.branches
        deadline = time.monotonic() + 300
        found = await asyncio.gather(
            *(branches.score(resize(checks(1), 64), ref, deadline) for ref in (good, gone, good, gone)),
            return_exceptions=True,
        )
        assert [isinstance(score, NotFoundError) for score in found] == [False, True, False, True]
        with pytest.raises(NotFoundError):
            await branches.check_loads(gone)
        await branches.check_loads(good)

    loop.run(main())


def test_what_is_loaded_is_scored_while_the_store_hangs(published: CategoryStore) -> None:
    store = Counting(published.url)
    ref, query = published.current("checks"), resize(checks(400), 64)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(5))  # as Ray Serve does for a replica
        deployed = Deployed(store)
        deadline = time.monotonic() + 120
        before = await deployed.branches.score(query, ref, deadline)
        store.answers.clear()
        try:
            asking = [asyncio.create_task(deployed.branches.reference(query, ref, deadline)) for _ in range(20)]
            await asyncio.sleep(0.5)
            found = await asyncio.wait_for(deployed.branches.score(query, ref, deadline), 60)
        finally:
            store.answers.set()
        assert found.score == pytest.approx(before.score, abs=1e-5)
        await asyncio.gather(*asking)

    with asyncio.Runner() as runner:
        runner.run(main())


class Computing(_Replica):
    """A replica that counts how often it proves that it computes."""

    def __init__(self) -> None:
        self.checks = 0

    def _check(self) -> None:
        self.checks += 1
        time.sleep(0.1)

    def broadcast(self, method: str) -> "Computing":
        self.asked = getattr(self, method)()
        return self

    async def results_async(self, timeout_s: float, return_exceptions: bool) -> list[bool]:
        return [await self.asked]


def test_however_many_ask_whether_a_replica_is_ready_it_computes_once(loop: asyncio.Runner) -> None:
    replica = Computing()

    async def ask() -> list[bool]:
        return await asyncio.gather(*(replica.ready() for _ in range(100)))

    assert all(loop.run(ask()))
    assert replica.checks == 1


def test_however_many_ask_whether_the_branches_are_ready_each_is_asked_once(loop: asyncio.Runner) -> None:
    broadcasts = 0

    class Handle(Computing):
        deployment_name = "computing"

        def broadcast(self, method: str) -> Computing:
            nonlocal broadcasts
            broadcasts += 1
            return super().broadcast(method)

    branches = Branches(QUICK, Handle(), Handle(), Handle(), Handle(), deadline_seconds=5.0)

    async def ask() -> list[dict[str, bool]]:
        return await asyncio.gather(*(branches.ready() for _ in range(100)))

    assert loop.run(ask()) == [{"encoder": True, "personal": True, "normal": True, "text": True}] * 100
    assert broadcasts == 4


def test_draining_waits_for_those_in_flight(loop: asyncio.Runner, deployed: Deployed, published: CategoryStore) -> None:
    async def main() -> None:
        branches = deployed.branches
        with branches.admitted(1):
            draining = asyncio.create_task(branches.drain())
            await asyncio.sleep(0.2)
            assert not draining.done()
            with pytest.raises(UnavailableError, match="shutting down"), branches.admitted(1):
                pass
        await asyncio.wait_for(draining, 30)

    loop.run(main())


def test_categories_seen_at_different_scales_share_batches_and_score_as_the_library_does(
    loop: asyncio.Runner, tmp_path: Path
) -> None:
    store = CategoryStore(tmp_path.as_uri())
    refs = [
        onboard(f"of-{side}", [stripes(0, side, side), stripes(1, side, side)], QUICK, store).ref for side in (96, 160)
    ] * 3
    pictures = [stripes(seed, 200, 170) for seed in range(len(refs))]
    expected = TripletScorer(QUICK, store).score(pictures, refs)
    queries = [resize(picture, store.manifest(ref).resolution) for picture, ref in zip(pictures, refs, strict=True)]
    assert {len(query) for query in queries} == {64, 128}

    async def main() -> None:
        branches, deadline = Deployed(store, QUICK).branches, time.monotonic() + 120
        found = await asyncio.gather(
            *(branches.score(query, ref, deadline) for query, ref in zip(queries, refs, strict=True))
        )
        for one, other in zip(found, expected, strict=True):
            assert (one.s_p, one.s_n, one.s_text) == pytest.approx((other.s_p, other.s_n, other.s_text), abs=1e-5)
            assert one.counterpart.shape == (64, 64, 3)
        nearest = await branches.reference(resize(stripes(1, 160, 160), 128), refs[1], deadline)
        assert np.array_equal(nearest, resize(stripes(1, 160, 160), 128))

    loop.run(main())


def test_two_encoders_score_as_the_library_does(loop: asyncio.Runner, tmp_path: Path) -> None:
    other = QUICK.encoder.model_copy(update={"levels": (3,)})
    profile: Profile = QUICK.model_copy(update={"patch_encoder": other})
    store = CategoryStore(tmp_path.as_uri())
    ref = onboard("checks", [checks(0), checks(1)], profile, store).ref
    (expected,) = TripletScorer(profile, store).score([checks(400)], [ref])

    async def main() -> None:
        score = await Deployed(store, profile).branches.score(resize(checks(400), 64), ref, time.monotonic() + 60)
        found = (score.s_p, score.s_n, score.s_text)
        assert found == pytest.approx((expected.s_p, expected.s_n, expected.s_text), abs=1e-5)

    loop.run(main())
