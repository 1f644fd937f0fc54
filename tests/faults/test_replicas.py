"""Replicas killed and versions published under load: every request is answered, and with the right score."""

import os
import signal
import time

import httpx
import pytest

from infra.local.cluster import Cluster
from infra.local.deploy import deploy
from o2n.category import VersionRef
from o2n.client import Client
from o2n.images import Picture, encode_png
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from serve.app import MAX_DEADLINE_SECONDS
from tests.faults.clients import Clients, processes_of, replicas_of
from tests.helpers import QUICK, checks, stripes

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

PICTURES: list[Picture] = [maker(seed) for seed in range(60, 64) for maker in (checks, stripes)]


@pytest.fixture(scope="module")
def url(own_cluster: Cluster, quick_profile: str) -> str:
    # One replica of each, so that a killed one is missed; and all the time there may be for its successor to start.
    return deploy(own_cluster, profile=quick_profile, deadline_seconds=MAX_DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def scorer(published: CategoryStore) -> TripletScorer:
    return TripletScorer(QUICK, published)


def requests_for(*categories: str) -> list[tuple[str, int, bytes]]:
    return [
        (category, number, encode_png(picture)) for number, picture in enumerate(PICTURES) for category in categories
    ]


def expected(scorer: TripletScorer, ref: VersionRef) -> list[float]:
    return [score.score for score in scorer.score(PICTURES, [ref] * len(PICTURES))]


def test_no_kill_loses_or_changes_an_answer(
    own_cluster: Cluster, url: str, published: CategoryStore, scorer: TripletScorer
) -> None:
    scores = {name: expected(scorer, published.current(name)) for name in ("checks", "stripes")}
    with Clients(url, requests_for("checks", "stripes"), clients=6).at_work() as clients:
        clients.wait_for(12)
        for deployment in ("Encoder", "Personalizer", "NormalScorer", "TextScorer", "Gateway"):
            before = len(clients.sent)
            (pid,) = replicas_of(own_cluster, deployment)
            os.kill(pid, signal.SIGKILL)
            if deployment == "Personalizer":
                assert httpx.get(f"{url}/readyz", timeout=60).status_code == 503
            clients.wait_for(12)
            print(f"killed {deployment}: {len(clients.sent) - before} answers since, in all {clients.told()}")
    assert {sent.status for sent in clients.sent} == {200}, clients.told()
    assert all(sent.score == pytest.approx(scores[sent.category][sent.picture], abs=1e-5) for sent in clients.sent)
    assert httpx.get(f"{url}/readyz", timeout=60).status_code == 200


def test_a_killed_proxy_comes_back(
    own_cluster: Cluster, url: str, published: CategoryStore, scorer: TripletScorer
) -> None:
    """Nobody can answer what was open at a proxy that dies; a client that asks again has its answer."""
    scores = expected(scorer, published.current("checks"))
    (pid,) = processes_of(own_cluster, "ray::ProxyActor")
    with Client(url) as client:
        client.score("checks", [encode_png(PICTURES[0])])
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        while not answers(url):
            assert time.monotonic() < killed + 120, "the proxy did not come back"
            time.sleep(0.1)
        print(f"the proxy was back after {time.monotonic() - killed:.1f} s")
        found = client.score(
            "checks", [encode_png(picture) for picture in PICTURES[:4]]
        )  # over a connection that is dead
    assert [picture.score for picture in found] == pytest.approx(scores[:4], abs=1e-5)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_publishing_loses_and_mixes_nothing(url: str, published: CategoryStore, scorer: TripletScorer) -> None:
    checked, striped = (published.manifest(published.current(name)) for name in ("checks", "stripes"))
    first = checked.model_copy(update={"category": "moving"})
    # Two versions that differ in every branch, and three that cannot be loaded, each in its own way.
    second = striped.model_copy(update={"category": "moving"})
    lost = published.put_blob(b"soon gone")
    no_bank = first.model_copy(update={"blobs": first.blobs | {"features": lost}})
    no_tensor = first.model_copy(update={"blobs": first.blobs | {"adapter": published.put_blob(b"no adapter")}})
    foreign = first.model_copy(update={"foundation": "another"})
    scores = {published.publish(m).version: expected(scorer, m.ref) for m in (second, first)}

    with Clients(url, requests_for("moving"), clients=6).at_work() as clients:
        clients.wait_for(6)
        for manifest in (second, no_bank, first, no_tensor, second, foreign, first):
            published.publish(manifest)
            if manifest is no_bank:
                published.objects.delete(f"blobs/sha256/{lost.sha256}")
            wanted = manifest.version if manifest.version in scores else clients.sent[-1].body["version"]
            time.sleep(2.5)
            clients.wait_for(6)
            assert clients.sent[-1].body["version"] == wanted
    assert {sent.status for sent in clients.sent} == {200}, clients.told()
    assert {sent.body["version"] for sent in clients.sent} == set(scores)
    print(f"{len(clients.sent)} answers while 7 versions were published")
    for sent in clients.sent:
        assert sent.score == pytest.approx(scores[sent.body["version"]][sent.picture], abs=1e-5)
    published.delete("moving")
