"""Dashboard, alerts and scraping name only metrics that exist; the alerts fire when they should and are still else."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray.util.metrics import Counter, Histogram

from infra.local.deploy import ROOT
from o2n.images import encode_png
from serve.metrics import METRICS
from serve.proxy import ROUTE as PROXY
from tests.helpers import checks

FOLDER = ROOT / "infra" / "observability"

needs_promtool = pytest.mark.skipif(  # in CI, which has to bring it, they fail without it
    not shutil.which("promtool") and not os.environ.get("CI"),
    reason="promtool is not installed (Debian package prometheus)",
)


def expressions() -> list[str]:
    """Every PromQL expression of the dashboard and the rules, Grafana's variables filled in."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    values = {"$__rate_interval": "5m", "$__interval": "1m", "$category": ".*"}
    return [re.sub(r"\$\w+", lambda match: values[match[0]], expression) for expression in found]


def rules() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "rules.yaml").read_text())


def names_used() -> set[str]:
    return {name for expression in expressions() for name in re.findall(r"\bray_\w+", expression)}


def names_exported() -> dict[str, set[str]]:
    """The names of serve/metrics.py -> those under which Prometheus knows them."""
    found = {}
    for metric in METRICS:
        name = metric.info["name"]
        if isinstance(metric, Histogram):
            found[name] = {f"ray_{name}_{part}" for part in ("bucket", "count", "sum")}
        else:
            found[name] = {f"ray_{name}_total" if isinstance(metric, Counter) else f"ray_{name}"}
    return found


def test_every_metric_of_o2n_that_is_asked_for_is_defined() -> None:
    asked = {name for name in names_used() if name.startswith("ray_o2n_")}
    assert asked
    assert asked <= set().union(*names_exported().values())


def test_every_metric_that_is_defined_is_shown() -> None:
    shown = names_used()
    assert [name for name, exported in names_exported().items() if not exported & shown] == []


def test_labels_that_are_asked_for_are_given() -> None:
    keys = {
        exported: set(metric.info["tag_keys"]) | {"le"}
        for metric in METRICS
        for exported in names_exported()[metric.info["name"]]
    }
    for expression in expressions():
        for name, selector in re.findall(r"\b(ray_o2n_\w+)\{([^}]*(?:\{name\}[^}]*)?)\}", expression):
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= keys[name], expression


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    assert dashboard["schemaVersion"] >= 36
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "category"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency per branch", "Batches", "Caches", "Replicas", "Scores and drift per category"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_prometheus_takes_the_configuration_and_every_expression(tmp_path: Path) -> None:
    promtool("check", "config", str(FOLDER / "prometheus.yaml"))
    promtool("check", "rules", str(FOLDER / "rules.yaml"))
    shown = [{"record": f"shown:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    file = tmp_path / "shown.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": shown}]}))
    promtool("check", "rules", str(file))


ROUTE = "/v1/categories/{name}/score"
CALM = {
    f'ray_o2n_requests_total{{route="{ROUTE}",status="200",code=""}}': "0+600x600",
    # A probe that is told to come again is no failed request.
    'ray_o2n_requests_total{route="/readyz",status="503",code=""}': "0+60x600",
    f'ray_o2n_request_seconds_bucket{{route="{ROUTE}",le="0.5"}}': "0+600x600",
    f'ray_o2n_request_seconds_bucket{{route="{ROUTE}",le="+Inf"}}': "0+600x600",
    'ray_serve_deployment_status{application="o2n",deployment="Encoder"}': "6x600",
    'ray_serve_application_status{application="o2n"}': "6x600",
    'ray_o2n_p_values_bucket{category="bolts",le="0.5"}': "0+5x600",
    'ray_o2n_p_values_count{category="bolts"}': "0+10x600",
}
# An alert -> what happens in its incident, from the fifth hour on.
INCIDENTS = {
    "O2NErrors": {f'ray_o2n_requests_total{{route="{ROUTE}",status="500",code="internal"}}': "0x300 0+30x300"},
    "O2NRefusing": {f'ray_o2n_requests_total{{route="{ROUTE}",status="429",code="overloaded"}}': "0x300 0+100x300"},
    "O2NTurnedAway": {f'ray_o2n_requests_total{{route="{PROXY}",status="408",code="too_slow"}}': "0x300 0+100x300"},
    "O2NSlow": {
        f'ray_o2n_request_seconds_bucket{{route="{ROUTE}",le="0.5"}}': "0+600x300 180000+0x300",
        f'ray_o2n_request_seconds_bucket{{route="{ROUTE}",le="10.0"}}': "0+600x600",
    },
    "O2NNotReady": {'ray_serve_deployment_status{application="o2n",deployment="Encoder"}': "6x300 2x300"},
    "O2NGone": {'ray_serve_application_status{application="o2n"}': "6x300 stale"},
    "O2NVersionRefused": {"ray_o2n_refused_versions_total": "_x594 1x5"},
    "O2NDrift": {'ray_o2n_p_values_bucket{category="bolts",le="0.5"}': "0+5x200 1010+10x400"},
}


# What proxies answer themselves -> the alert that tells of it.
REFUSED_BY_PROXIES = [
    ("429", "overloaded", "O2NRefusing"),
    ("503", "unavailable", "O2NErrors"),
    ("408", "too_slow", "O2NTurnedAway"),
    ("413", "too_large", "O2NTurnedAway"),
    ("431", "too_large", "O2NTurnedAway"),
    ("400", "bad_request", "O2NTurnedAway"),
]


def firing(tmp_path: Path, series: dict[str, str], alerts: list[str]) -> None:
    """Check that after ten hours of `series`, a value a minute, just these alerts fire."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "10h",
                "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "rules.yaml")], "tests": [test]}))
    promtool("test", "rules", str(file))


@needs_promtool
def test_no_alert_fires_while_all_is_well(tmp_path: Path) -> None:
    firing(tmp_path, CALM, [])


@needs_promtool
@pytest.mark.parametrize("alert", INCIDENTS)
def test_an_incident_fires_its_alert_and_no_other(alert: str, tmp_path: Path) -> None:
    firing(tmp_path, CALM | INCIDENTS[alert], [alert])


@needs_promtool
@pytest.mark.parametrize(("status", "code", "alert"), REFUSED_BY_PROXIES)
def test_proxies_that_refuse_everybody_are_told_of(status: str, code: str, alert: str, tmp_path: Path) -> None:
    nobody_else = {name: "0+600x300 180000+0x300" for name in CALM if name.startswith("ray_o2n_request")}
    refused = {f'ray_o2n_requests_total{{route="{PROXY}",status="{status}",code="{code}"}}': "0x300 0+600x300"}
    firing(tmp_path, CALM | nobody_else | refused, [alert])


def test_every_alert_has_an_incident_that_fires_it() -> None:
    assert {rule["alert"] for group in rules()["groups"] for rule in group["rules"]} == set(INCIDENTS)


@pytest.mark.cluster
def test_a_running_service_exports_what_is_shown(service: str) -> None:
    with httpx.Client(base_url=service, timeout=60) as client:
        picture = {"pictures": ("part.png", encode_png(checks(60)))}
        assert client.post("/v1/categories/checks/score", files=picture).status_code == 200
        assert client.post("/v1/categories/nuts/score", files=picture).status_code == 404
        assert client.get("/healthz", headers={"x-large": "y" * 70_000}).status_code == 431
        rare = {"ray_o2n_cache_evictions_total", "ray_o2n_refused_versions_total", "ray_o2n_retries_total"}
        deadline = time.monotonic() + 120
        missing = {"all"}
        while missing and time.monotonic() < deadline:  # Ray hands metrics on every ten seconds
            time.sleep(2)
            answer = client.get("/metrics")
            assert answer.status_code == 200
            exported = set(re.findall(r"^(ray_\w+)\{", answer.text, re.MULTILINE))
            missing = names_used() - exported - rare
        assert missing == set()
        assert 'code="not_found"' in answer.text
        assert f'route="{PROXY}"' in answer.text
        assert 'category="checks"' in answer.text
        assert 'category="nuts"' not in answer.text
        assert not [line for line in answer.text.splitlines() if not re.match(r"(# \w+ )?ray_(o2n|serve)_", line)]
