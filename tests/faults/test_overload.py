"""More than the service can do: what is refused is refused at once, what is taken on is done, and replicas follow."""

import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from infra.local.cluster import Cluster
from infra.local.deploy import deploy
from infra.local.load import score_request
from o2n.images import encode_png
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.faults.clients import Clients, replicas_of
from tests.helpers import QUICK, checks, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

DEADLINE = 4.0
CLIENTS = 96
CATEGORIES = 200
# Ten adapters or five banks.
ADAPTER_MEMORY, BANK_MEMORY = 2 << 20, 40 << 20


@pytest.fixture(scope="module")
def url(own_cluster: Cluster, quick_profile: str) -> str:
    # What is minutes in the file, to wait for load that stays, is seconds here.
    scaling = {"target_ongoing_requests": 1, "look_back_period_s": 2, "upscale_delay_s": 0, "downscale_delay_s": 3}
    fixed = {"min_replicas": 1, "max_replicas": 1}
    return deploy(
        own_cluster,
        options={
            "Personalizer": {"autoscaling_config": {"min_replicas": 1, "max_replicas": 2, **scaling}},
            **{name: {"autoscaling_config": fixed} for name in ("Gateway", "Encoder", "NormalScorer", "TextScorer")},
        },
        profile=quick_profile,
        deadline_seconds=DEADLINE,
        adapter_memory=ADAPTER_MEMORY,
        bank_memory=BANK_MEMORY,
    )


def test_two_hundred_categories_in_little_memory(url: str, published: CategoryStore) -> None:
    checked, striped = (published.manifest(published.current(name)) for name in ("checks", "stripes"))
    # Four kinds of category, of two adapters and two banks; each under fifty names of its own.
    kinds = [
        checked.model_copy(
            update={"blobs": checked.blobs | {"adapter": a.blobs["adapter"], "features": b.blobs["features"]}}
        )
        for a in (checked, striped)
        for b in (checked, striped)
    ]
    names = [f"c{number:03}" for number in range(CATEGORIES)]
    refs = [published.publish(kinds[i % 4].model_copy(update={"category": name})) for i, name in enumerate(names)]
    picture = checks(90)
    expected = [score.score for score in TripletScorer(QUICK, published).score([picture] * 4, refs[:4])]
    assert len({round(score, 4) for score in expected}) == 4

    def ask(number: int) -> float:
        path, body, headers = score_request(names[number], encode_png(picture))
        for _ in range(60):
            answer = httpx.post(url + path, content=body, headers=headers, timeout=60)
            if answer.status_code not in (429, 503):
                break
            time.sleep(float(answer.headers["retry-after"]))
        assert answer.status_code == 200, answer.text
        assert answer.json()["version"] == refs[number].version
        return answer.json()["pictures"][0]["score"]

    # All of them, then some that have been given up since.
    order = [*range(CATEGORIES), *range(40)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, order))
    assert found == pytest.approx([expected[number % 4] for number in order], abs=1e-5)

    def told(metric: str, branch: str) -> list[float]:
        lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        lines = [line for line in lines if line.startswith(f"ray_{metric}") and f'branch="{branch}"' in line]
        return [float(line.rsplit(" ", 1)[1]) for line in lines]

    for branch in ("personal", "normal"):
        wait_until(lambda branch=branch: sum(told("o2n_cache_evictions_total", branch)) >= 100, "evictions", 60)
    assert 0 < max(told("o2n_cache_bytes", "personal")) <= ADAPTER_MEMORY
    assert 0 < max(told("o2n_cache_bytes", "normal")) <= BANK_MEMORY
    for name in names:
        published.delete(name)


def test_overload_is_refused_at_once_and_replicas_follow_the_load(own_cluster: Cluster, url: str) -> None:
    wait_until(lambda: len(replicas_of(own_cluster, "Personalizer")) == 1, "single replica", 120)
    requests = [("checks", seed, encode_png(checks(seed))) for seed in range(100, 108)]
    with Clients(url, requests, clients=CLIENTS).at_work() as clients:
        wait_until(lambda: len(replicas_of(own_cluster, "Personalizer")) == 2, "second replica", 180)
        time.sleep(8)
    answers = Counter(sent.status for sent in clients.sent)
    done = [sent for sent in clients.sent if sent.status == 200]
    refused = [sent for sent in clients.sent if sent.status == 429]
    print(
        f"{dict(answers)}; done in {statistics.median(s.seconds for s in done):.2f} s, at most "
        f"{max(s.seconds for s in done):.2f}; refused in {statistics.median(s.seconds for s in refused):.3f} s, "
        f"at most {max(s.seconds for s in refused):.2f}; to come again in "
        f"{sorted({s.headers['retry-after'] for s in refused})} s"
    )
    assert set(answers) <= {200, 429, 503}, clients.told()
    assert all(int(sent.headers["retry-after"]) >= 1 for sent in clients.sent if sent.status != 200)
    assert done
    assert refused
    # Never so many under way at once as there were clients: the queue has an end.
    assert max(sum(a.begun <= b.begun < a.begun + a.seconds for a in done) for b in done) < CLIENTS
    wait_until(lambda: len(replicas_of(own_cluster, "Personalizer")) == 1, "single replica", 120)
