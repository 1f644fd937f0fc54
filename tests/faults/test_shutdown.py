"""An application that is taken away from its cluster under load."""

import time

import httpx
import pytest

from infra.local.cluster import Cluster
from infra.local.deploy import deploy
from o2n.images import encode_png
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from serve.app import MAX_DEADLINE_SECONDS
from tests.faults.clients import Clients
from tests.helpers import QUICK, checks

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PICTURES = [checks(seed) for seed in range(70, 74)]


def take_away(cluster: Cluster) -> None:
    """What `serve deploy` of no application does, without the seconds that starting it takes."""
    headers = {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    url = f"{cluster.dashboard}/api/serve/applications/"
    # A busy machine's dashboard now and then has no room for a connection.
    with httpx.Client(transport=httpx.HTTPTransport(retries=5), headers=headers, timeout=60) as client:
        client.put(url, json={"applications": []}).raise_for_status()


def test_it_answers_what_its_models_have_in_hand_and_cuts_nothing_off(
    own_cluster: Cluster, published: CategoryStore, quick_profile: str
) -> None:
    ref = published.current("checks")
    scores = [score.score for score in TripletScorer(QUICK, published).score(PICTURES, [ref] * len(PICTURES))]
    url = deploy(own_cluster, profile=quick_profile, deadline_seconds=MAX_DEADLINE_SECONDS)
    requests = [("checks", number, encode_png(picture)) for number, picture in enumerate(PICTURES)]
    with Clients(url, requests, clients=12).at_work() as clients:
        clients.wait_for(24)
        taken = time.monotonic()
        take_away(own_cluster)
        while clients.sent[-1].status != 404:
            assert time.monotonic() < taken + 120, clients.told()
            time.sleep(0.1)
    under_way = [sent for sent in clients.sent if sent.begun < taken < sent.begun + sent.seconds]
    print(f"{len(under_way)} requests were under way")
    answered = [sent for sent in under_way if sent.status == 200]
    # Its deployments go all at once: what the gateway has not handed to the models by then finds none, and is told so.
    assert 2 * len(answered) >= len(under_way) > 0, clients.told()
    assert {sent.status for sent in clients.sent} <= {200, 404, 429, 503}, clients.told()
    assert all(sent.score == pytest.approx(scores[sent.picture], abs=1e-5) for sent in answered)
