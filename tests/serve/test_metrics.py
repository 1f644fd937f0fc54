"""The table of metrics, the bound on categories, and texts of several nodes made one."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.util.metrics import Counter, Metric

from o2n.category import VersionRef
from o2n.loaded import Loaded
from serve import metrics

TEXT = """\
# HELP ray_o2n_requests_total Requests.
# TYPE ray_o2n_requests_total counter
ray_o2n_requests_total{{NodeAddress="{node}",status="200"}} {count}
# HELP ray_tasks Tasks.
# TYPE ray_tasks gauge
ray_tasks{{NodeAddress="{node}"}} 7
# HELP ray_o2n_scores Scores.
# TYPE ray_o2n_scores histogram
ray_o2n_scores_bucket{{NodeAddress="{node}",le="1.0"}} 1
ray_o2n_scores_bucket{{NodeAddress="{node}",le="+Inf"}} {count}
ray_o2n_scores_count{{NodeAddress="{node}"}} {count}
ray_o2n_scores_sum{{NodeAddress="{node}"}} {count}
"""


def test_the_table_has_every_metric_once_and_all_are_o2ns() -> None:
    defined = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert sorted(map(id, defined)) == sorted(map(id, metrics.METRICS))
    names = [metric.info["name"] for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("o2n_") for name in names)
    assert all(metric.info["description"] for metric in metrics.METRICS)


def test_the_middle_of_a_bucket_of_pictures_is_their_number() -> None:
    assert [(low + high) / 2 for low, high in zip(metrics.PICTURES[:17], metrics.PICTURES[1:17], strict=False)] == [
        *range(1, 17)
    ]


def test_ten_thousand_categories_have_few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_named", set())
    labels = [metrics.category_label(f"category-{number % 10_000}") for number in range(20_000)]
    assert len(set(labels)) == metrics.NAMED_CATEGORIES + 1
    assert labels[:2] == ["category-0", "category-1"]
    assert labels[9_999] == metrics.OTHER_CATEGORIES
    assert labels[:10_000] == labels[10_000:]


def test_texts_of_two_nodes_become_one_that_prometheus_reads() -> None:
    merged = metrics.merge([TEXT.format(node="10.0.0.1", count=3), TEXT.format(node="10.0.0.2", count=4)])
    families = {family.name: family for family in text_string_to_metric_families(merged)}
    assert set(families) == {"ray_o2n_requests", "ray_o2n_scores"}
    assert merged.count("# TYPE") == 2
    assert sum(sample.value for sample in families["ray_o2n_requests"].samples) == 7
    assert len(families["ray_o2n_scores"].samples) == 8


def test_the_counts_of_a_cache_are_told_as_they_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float]] = []
    monkeypatch.setattr(Counter, "inc", lambda self, value, tags: told.append((self.info["name"], value)))
    kept = Loaded(lambda ref: 600, lambda value: value, budget=1000)
    cache = metrics.Cache("normal", kept)
    first, second = VersionRef("a", "1"), VersionRef("b", "1")
    kept.get(first)
    kept.get(first)
    cache.tell()
    assert told == [("o2n_cache_hits", 1), ("o2n_cache_loads", 1)]
    kept.get(second)
    told.clear()
    cache.tell()
    cache.tell()
    assert told == [("o2n_cache_loads", 1), ("o2n_cache_evictions", 1)]
