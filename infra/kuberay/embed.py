"""Writes what service.yaml and alerts.yaml take from elsewhere: Serve's configuration, a Ray cluster, alerting rules.

    python -m infra.kuberay.embed

KubeRay wants the Serve configuration as text inside the RayService, and the cluster's specification once more;
Prometheus's operator wants the rules inside a resource. Change them at their source and run this; a test fails while a
manifest is behind.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

KUBERAY = Path(__file__).parent
SERVE_CONFIG = KUBERAY.parents[1] / "serve" / "config.yaml"
CLUSTER = KUBERAY / "cluster.yaml"
SERVICE = KUBERAY / "service.yaml"
RULES = KUBERAY.parent / "observability" / "rules.yaml"
ALERTS = KUBERAY / "alerts.yaml"

# Everything below this line of service.yaml is written here.
MARK = "  # Written by `python -m infra.kuberay.embed`.\n"

COMPONENT = "app.kubernetes.io/component"


def embedded(service: str, serve_config: str, cluster: str) -> str:
    """The text of service.yaml, its generated part renewed.

    Args:
        service: its text as it is; what stands above the mark is kept.
        serve_config: the text of serve/config.yaml.
        cluster: the text of cluster.yaml.

    Raises:
        ValueError: `service` has no mark.
    """
    own, mark, _ = service.partition(MARK)
    if not mark:
        raise ValueError(
            f"service.yaml has lost its line {MARK.strip()!r}: put it back where the generated part begins"
        )
    specification = yaml.dump(
        {"rayClusterConfig": serving(yaml.safe_load(cluster)["spec"])}, Dumper=_Plain, sort_keys=False, width=120
    )
    return f"{own}{mark}  serveConfigV2: |\n{_indented(serve_config, 4)}{_indented(specification, 2)}"


def alerts(rules: str) -> str:
    """The text of alerts.yaml: a file of Prometheus's rules as a resource of its operator."""
    return f"""# Written by `python -m infra.kuberay.embed` from infra/observability/rules.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: o2n
  namespace: o2n
spec:
{_indented(rules, 2)}"""


def serving(jobs: dict[str, Any]) -> dict[str, Any]:
    """The specification of a cluster for jobs -> that of the cluster that serves."""
    spec = copy.deepcopy(jobs)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        group["template"]["metadata"]["labels"][COMPONENT] = "serving"
    # KubeRay makes the Service of Ray Serve of the head's ports, though the head itself answers no requests.
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    head["ports"].append({"name": "serve", "containerPort": 8000})
    for group in spec["workerGroupSpecs"]:
        (ray,) = group["template"]["spec"]["containers"]
        # Requests go to pods whose own HTTP proxy answers.
        ray["readinessProbe"] = {"httpGet": {"path": "/-/healthz", "port": "serve"}, "periodSeconds": 5}
        # A pod that ends gets no more of them, and has the time that a request may take to answer those it has.
        ray["lifecycle"] = {"preStop": {"sleep": {"seconds": 40}}}
        group["template"]["spec"]["terminationGracePeriodSeconds"] = 60
        if group["groupName"] == "cpu":
            # So that one machine can be lost, or drained, without an outage.
            group["replicas"] = group["minReplicas"] = 2
            for constraint in group["template"]["spec"]["topologySpreadConstraints"]:
                constraint["labelSelector"]["matchLabels"][COMPONENT] = "serving"
    return spec


class _Plain(yaml.SafeDumper):
    """Without anchors, and with lists indented as in the files beside it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _indented(text: str, width: int) -> str:
    return "".join(f"{' ' * width}{line}".rstrip() + "\n" for line in text.splitlines())


def main() -> None:
    """Renew service.yaml and alerts.yaml."""
    ALERTS.write_text(alerts(RULES.read_text()))
    SERVICE.write_text(embedded(SERVICE.read_text(), SERVE_CONFIG.read_text(), CLUSTER.read_text()))


if __name__ == "__main__":
    main()
