"""Writes what service.yaml takes from elsewhere: serve/config.yaml, and the Ray cluster of cluster.yaml.

    python -m infra.kuberay.embed

KubeRay wants the Serve configuration as text inside the RayService, and the cluster's specification once more. Change
either at its source and run this; a test fails while service.yaml is behind.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

KUBERAY = Path(__file__).parent
SERVE_CONFIG = KUBERAY.parents[1] / "serve" / "config.yaml"
CLUSTER = KUBERAY / "cluster.yaml"
SERVICE = KUBERAY / "service.yaml"

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
    configuration = "".join(f"    {line}".rstrip() + "\n" for line in serve_config.splitlines())
    specification = yaml.dump(
        {"rayClusterConfig": serving(yaml.safe_load(cluster)["spec"])}, Dumper=_Plain, sort_keys=False, width=120
    )
    indented = "".join(f"  {line}\n" for line in specification.splitlines())
    return f"{own}{mark}  serveConfigV2: |\n{configuration}{indented}"


def serving(jobs: dict[str, Any]) -> dict[str, Any]:
    """The specification of a cluster for jobs -> that of the cluster that serves."""
    spec = copy.deepcopy(jobs)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        group["template"]["metadata"]["labels"][COMPONENT] = "serving"
    for group in spec["workerGroupSpecs"]:
        (ray,) = group["template"]["spec"]["containers"]
        # Requests go to pods whose own HTTP proxy answers, and no longer to one that is about to end.
        ray["readinessProbe"] = {"httpGet": {"path": "/-/healthz", "port": "serve"}, "periodSeconds": 5}
        ray["lifecycle"] = {"preStop": {"sleep": {"seconds": 15}}}
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


def main() -> None:
    """Renew service.yaml."""
    SERVICE.write_text(embedded(SERVICE.read_text(), SERVE_CONFIG.read_text(), CLUSTER.read_text()))


if __name__ == "__main__":
    main()
