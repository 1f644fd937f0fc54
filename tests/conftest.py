"""Real servers that tests share: S3 over HTTP, a Ray cluster, the service on it. And what needs a GPU is skipped."""

import os
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from infra.local.cluster import Cluster, local_cluster
from infra.local.deploy import deploy
from infra.local.s3 import s3_environment
from infra.local.s3 import s3_server as local_s3_server
from o2n.onboard import onboard
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks, stripes

# Else Ray puts its workers behind the other process of tests.
os.environ.update(RAY_worker_niceness="0")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of tests are shared out among processes, but what starts Ray clusters stays in one: clusters that come up
    at the same time take each other's ports, and what is timed in one suffers from what is killed in another."""
    if twice := [name for name, times in Counter(item.nodeid for item in items).items() if times > 1]:
        raise pytest.UsageError(f"several tests of one name, of which xdist runs one alone: {', '.join(twice)}")
    for item in items:
        cluster = item.get_closest_marker("cluster")
        item.add_marker(pytest.mark.xdist_group("clusters" if cluster else item.path.stem))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with local_s3_server() as url:
        yield url


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its endpoint, with the environment set so that O2N uses it."""
    for variable in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in s3_environment(s3_server, "test", "test").items():
        monkeypatch.setenv(variable, value)
    return s3_server


@pytest.fixture
def bucket(s3: str) -> str:
    """A fresh, empty bucket."""
    name = f"o2n-{uuid.uuid4().hex}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3}/{name}", method="PUT")):
        return name


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can live and nothing is yet: test it in each kind of place."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/some/prefix"
    return (tmp_path / "a störe").as_uri()


@pytest.fixture(scope="session")
def quick_profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the quick profile's file."""
    file = tmp_path_factory.mktemp("profile") / "quick.json"
    file.write_text(QUICK.model_dump_json())
    return str(file)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> CategoryStore:
    """A store with the categories `checks` and `stripes`."""
    store = CategoryStore(tmp_path_factory.mktemp("published").as_uri())
    onboard("checks", [checks(0), checks(1)], QUICK, store)
    onboard("stripes", [stripes(0), stripes(1)], QUICK, store)
    return store


@pytest.fixture(scope="session")
def cluster(published: CategoryStore) -> Iterator[Cluster]:
    """A Ray cluster whose store is `published`."""
    with local_cluster(cpus=6, store=published.url) as running:
        yield running


@pytest.fixture(scope="session")
def service(cluster: Cluster, quick_profile: str) -> str:
    """The URL of the service on that cluster, as serve/config.yaml deploys it."""
    return deploy(cluster, profile=quick_profile)
