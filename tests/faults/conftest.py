"""Faults are made on clusters of their own: what is killed or crowded here must not be another test's."""

from collections.abc import Iterator

import pytest

from infra.local.cluster import Cluster, local_cluster
from o2n.store import CategoryStore


@pytest.fixture(scope="module")
def own_cluster(published: CategoryStore) -> Iterator[Cluster]:
    """A Ray cluster for the tests of one file, whose store is `published`."""
    with local_cluster(cpus=6, store=published.url) as running:
        yield running
