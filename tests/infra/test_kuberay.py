"""The manifests of infra/kuberay: valid, of one version, closed but for the gateway, and never behind their sources."""

import copy
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from pydantic import ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema

from infra.kuberay.embed import ALERTS, CLUSTER, KUBERAY, RULES, SERVE_CONFIG, SERVICE, alerts, embedded
from serve import CLUSTER_ENVIRONMENT
from tests.infra.schemas import check

ROOT = KUBERAY.parents[1]
FILES = sorted(KUBERAY.glob("*.yaml"))

Resource = dict[str, Any]


def load(name: str) -> list[Resource]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


RESOURCES = [resource for file in FILES for resource in load(file.name)]


def one(kind: str, name: str) -> Resource:
    (found,) = [r for r in RESOURCES if r["kind"] == kind and r["metadata"]["name"] == name]
    return found


def walk(node: Any) -> Iterator[Resource]:
    """Every mapping of a document, outermost first."""
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(value)


def pods(resources: list[Resource] = RESOURCES) -> list[Resource]:
    """Every pod template, wherever it is."""
    return [n for r in resources for n in walk(r) if "containers" in n.get("spec", {})]


CONTAINERS = [container for pod in pods() for container in pod["spec"]["containers"]]
CLUSTER_SPECS = [
    one("RayCluster", "o2n-jobs")["spec"],
    one("RayService", "o2n")["spec"]["rayClusterConfig"],
]


# ── valid ──


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: f"{r['kind']}-{r['metadata']['name']}")
def test_an_api_server_takes_it_whole(resource: Resource) -> None:
    check(resource)
    assert resource["metadata"].get("namespace", "o2n") == "o2n"


def test_a_misspelt_field_is_noticed_anywhere() -> None:
    for path, wrong in (
        (("spec", "enableInTreeAutoscalling"), True),
        (("spec", "workerGroupSpecs", 0, "maxReplica"), 3),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "livenesProbe"), {}),
        (("spec", "workerGroupSpecs", 1, "template", "spec", "securityContext", "runAsNotRoot"), True),
    ):
        resource = copy.deepcopy(one("RayCluster", "o2n-jobs"))
        node: Any = resource
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = wrong
        with pytest.raises((ValidationError, kubernetes_validate.ValidationError)):
            check(resource)


def test_the_autoscaler_reads_the_sizes_of_its_pods() -> None:
    types = _derive_autoscaling_config_from_ray_cr(one("RayCluster", "o2n-jobs"))["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert (types["cpu"]["resources"]["CPU"], types["cpu"]["max_workers"]) == (4, 10)
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["cpu"]["min_workers"] == types["gpu"]["min_workers"] == 0


# ── one service, one configuration ──


def test_the_service_is_not_behind_its_sources() -> None:
    renewed = embedded(SERVICE.read_text(), SERVE_CONFIG.read_text(), CLUSTER.read_text())
    assert SERVICE.read_text() == renewed, "run: python -m infra.kuberay.embed"
    configuration = yaml.safe_load(one("RayService", "o2n")["spec"]["serveConfigV2"])
    assert configuration == yaml.safe_load(SERVE_CONFIG.read_text())
    ServeDeploySchema.model_validate(configuration)


def test_the_alerts_are_not_behind_their_rules() -> None:
    assert ALERTS.read_text() == alerts(RULES.read_text()), "run: python -m infra.kuberay.embed"
    assert one("PrometheusRule", "o2n")["spec"] == yaml.safe_load(RULES.read_text())


def test_a_pod_that_ends_may_answer_what_it_has_taken_on() -> None:
    (application,) = yaml.safe_load(SERVE_CONFIG.read_text())["applications"]
    for group in CLUSTER_SPECS[1]["workerGroupSpecs"]:
        spec = group["template"]["spec"]
        pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert application["args"]["deadline_seconds"] < pause < spec["terminationGracePeriodSeconds"]


def test_the_head_has_the_port_that_kuberay_makes_the_service_of() -> None:
    """Without it there is no Service o2n-serve-svc, and the RayService is never ready (KubeRay's common/service.go)."""
    (head,) = CLUSTER_SPECS[1]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "serve", "containerPort": 8000} in head["ports"]


def test_a_service_that_is_behind_is_mended() -> None:
    config = SERVE_CONFIG.read_text().replace("profile: tiny", "profile: paper")
    cluster = CLUSTER.read_text().replace("maxReplicas: 8", "maxReplicas: 80")
    mended = yaml.safe_load(embedded(SERVICE.read_text(), config, cluster))
    assert mended["metadata"] == one("RayService", "o2n")["metadata"]
    assert yaml.safe_load(mended["spec"]["serveConfigV2"])["applications"][0]["args"]["profile"] == "paper"
    assert [group["maxReplicas"] for group in mended["spec"]["rayClusterConfig"]["workerGroupSpecs"]] == [10, 80]
    check(mended)


def test_a_service_without_its_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="has lost its line"):
        embedded("kind: RayService\n", "", "spec: {}")


def test_the_least_replicas_fit_into_the_workers_that_always_run() -> None:
    (application,) = yaml.safe_load(SERVE_CONFIG.read_text())["applications"]
    (cpu,) = [group for group in CLUSTER_SPECS[1]["workerGroupSpecs"] if group["groupName"] == "cpu"]
    have = cpu["minReplicas"] * int(cpu["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    need = sum(
        deployment["autoscaling_config"]["min_replicas"] * deployment["ray_actor_options"].get("num_cpus", 1)
        for deployment in application["deployments"]
        if not deployment["ray_actor_options"].get("num_gpus")
    )
    assert 0 < need <= have


def test_the_job_runs_a_script_of_ours_on_a_cluster_of_ours() -> None:
    spec = one("RayJob", "onboard")["spec"]
    script = re.match(r"python /opt/o2n/(\S+)", spec["entrypoint"])
    assert script is not None
    assert (ROOT / script[1]).is_file()
    assert spec["clusterSelector"] == {"ray.io/cluster": "o2n-jobs"}
    assert spec["entrypointNumCpus"] > 0  # else its driver runs on the head


# ── versions ──


def test_images_are_pinned_and_ours_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container["image"] for container in CONTAINERS}
    for image in images:
        assert re.fullmatch(r"[a-z0-9._/-]+:\d[A-Za-z0-9._-]*", image), image
    ours = {image for image in images if image.startswith("o2n:")}
    assert ours == {f"o2n:{version}-cpu", f"o2n:{version}-gpu"}
    for group in (group for spec in CLUSTER_SPECS for group in spec["workerGroupSpecs"]):
        (ray,) = group["template"]["spec"]["containers"]
        wants_gpu = "nvidia.com/gpu" in ray["resources"]["limits"]
        assert ray["image"].endswith("-gpu" if wants_gpu else "-cpu")


def test_ray_is_the_same_in_the_image_in_the_clusters_and_in_the_package() -> None:
    (in_image,) = re.findall(r"^ARG RAY_VERSION=(\S+)$", (ROOT / "infra/docker/Dockerfile").read_text(), re.MULTILINE)
    assert {spec["rayVersion"] for spec in CLUSTER_SPECS} == {in_image}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [r for r in map(Requirement, project["dependencies"]) if r.name == "ray"]
    assert Version(in_image) in wanted.specifier


def test_the_image_sets_what_the_local_cluster_sets_for_serve() -> None:
    set_there = dict(re.findall(r"(RAY_SERVE_\w+)=(\S+)", (ROOT / "infra/docker/Dockerfile").read_text()))
    assert set_there == CLUSTER_ENVIRONMENT


# ── closed ──


def test_pods_can_do_no_more_than_they_must() -> None:
    assert one("Namespace", "o2n")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        if not any(container["name"] == "ray-head" for container in spec["containers"]):
            assert spec["serviceAccountName"] == "o2n"
            assert spec["automountServiceAccountToken"] is False
    contexts = [c["securityContext"] for c in CONTAINERS]
    contexts += [spec["autoscalerOptions"]["securityContext"] for spec in CLUSTER_SPECS]
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert not [r for r in RESOURCES if r["kind"] in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")]


def test_containers_say_what_they_need_and_how_they_are() -> None:
    for container in CONTAINERS:
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        if container["name"] != "submitter":  # it ends by itself
            assert {"startupProbe", "livenessProbe"} <= set(container)


def test_what_is_mounted_is_there() -> None:
    for pod in pods():
        claims = {"data"} if pod["spec"]["containers"][0]["name"] == "redis" else set()
        volumes = claims | {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for spec in CLUSTER_SPECS:
        volumes = {volume["name"] for volume in spec["headGroupSpec"]["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in spec["autoscalerOptions"]["volumeMounts"]} <= volumes


def test_credentials_come_from_secrets_that_the_readme_creates() -> None:
    assert not [r for r in RESOURCES if r["kind"] == "Secret"]
    for node in (node for r in RESOURCES for node in walk(r)):
        if re.search("KEY|SECRET|PASSWORD|TOKEN", str(node.get("name", ""))):
            assert set(node) == {"name", "valueFrom"}
            assert set(node["valueFrom"]) == {"secretKeyRef"}
    wanted = {
        (n["secretKeyRef"]["name"], n["secretKeyRef"]["key"]) for r in RESOURCES for n in walk(r) if "secretKeyRef" in n
    }
    readme = (ROOT / "infra" / "README.md").read_text()
    created = {
        (command[1], key)
        for command in re.finditer(r"create secret generic (\S+)((?:\\\n|.)*)", readme)
        for key in re.findall(r"--from-(?:literal|file)=([a-z-]+)=", command[2])
    }
    assert wanted == created


def test_ray_asks_for_a_token_and_its_head_runs_nothing() -> None:
    for spec in CLUSTER_SPECS:
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


# ── who may talk to whom ──

RAY_PORTS = (6379, 8265, 10001, 8080, 52365, 23456)


def labels(component: str, node: str) -> dict[str, str]:
    """Of a pod as KubeRay makes it."""
    spec = {"jobs": CLUSTER_SPECS[0], "serving": CLUSTER_SPECS[1]}[component]
    group = spec["headGroupSpec"] if node == "head" else spec["workerGroupSpecs"][0]
    return group["template"]["metadata"]["labels"] | {"ray.io/node-type": node, "ray.io/cluster": f"o2n-{component}"}


OURS = {(component, node): labels(component, node) for component in ("jobs", "serving") for node in ("head", "worker")}
REDIS = next(pod["metadata"]["labels"] for pod in pods() if pod["spec"]["containers"][0]["name"] == "redis")
SUBMITTER = one("RayJob", "onboard")["spec"]["submitterPodTemplate"]["metadata"]["labels"]
# What both ways to install it, Helm's chart and KubeRay's kustomization, call it.
OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}
STRANGER = {"app": "something-else"}


def selects(selector: Resource, pod: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return all(pod.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        pod.get(expression["key"]) in expression["values"] for expression in expressions
    )


def reaches(source: dict[str, str], target: dict[str, str], port: int, *, inside: bool) -> bool:
    """Whether the policies let `source` in to `target`. inside: whether `source` is in the namespace of O2N too."""
    policies = [r["spec"] for r in RESOURCES if r["kind"] == "NetworkPolicy"]

    def lets(direction: str, rules: str, peers: str, at: dict[str, str], other: dict[str, str]) -> bool:
        applying = [p for p in policies if direction in p["policyTypes"] and selects(p["podSelector"], at)]
        return not applying or any(
            (peers not in rule or any(is_peer(peer, other) for peer in rule[peers]))
            and ("ports" not in rule or any(allowed["port"] == port for allowed in rule["ports"]))
            for policy in applying
            for rule in policy.get(rules, [])
        )

    def is_peer(peer: Resource, pod: dict[str, str]) -> bool:
        if "namespaceSelector" in peer:
            if peer["namespaceSelector"]:
                return False  # a namespace by name: none of those asked about here
        elif not inside:
            return False
        return selects(peer.get("podSelector", {}), pod)

    entering = lets("Ingress", "ingress", "from", target, source)
    return entering and (not inside or lets("Egress", "egress", "to", source, target))


@pytest.mark.parametrize("inside", [False, True])
def test_a_stranger_reaches_the_gateway_alone(inside: bool) -> None:
    for (component, _), pod in OURS.items():
        for port in RAY_PORTS:
            assert not reaches(STRANGER, pod, port, inside=inside)
        # One of the namespace may not even speak; others meet the gateway.
        assert reaches(STRANGER, pod, 8000, inside=inside) == (component == "serving" and not inside)
    assert not reaches(STRANGER, REDIS, 6379, inside=inside)


@pytest.mark.parametrize("component", ["jobs", "serving"])
def test_nodes_of_a_cluster_reach_one_another_and_redis(component: str) -> None:
    head, worker = OURS[component, "head"], OURS[component, "worker"]
    for port in (*RAY_PORTS, 8000):
        for source in (head, worker):
            for target in (head, worker):
                assert reaches(source, target, port, inside=True)
    assert reaches(head, REDIS, 6379, inside=True)
    assert not reaches(worker, REDIS, 6379, inside=True)
    assert reaches(worker | {"ray.io/node-type": "redis-cleanup"}, REDIS, 6379, inside=True)


def test_jobs_and_the_service_do_not_reach_each_other() -> None:
    for port in RAY_PORTS:
        for node in ("head", "worker"):
            assert not reaches(OURS["jobs", "worker"], OURS["serving", node], port, inside=True)
            assert not reaches(OURS["serving", "worker"], OURS["jobs", node], port, inside=True)


def test_the_operator_and_the_submitter_reach_the_dashboard() -> None:
    for component in ("jobs", "serving"):
        assert reaches(OPERATOR, OURS[component, "head"], 8265, inside=False)
        assert not reaches(OPERATOR, OURS[component, "head"], 6379, inside=False)
        assert not reaches(OPERATOR, OURS[component, "worker"], 8265, inside=False)
    assert reaches(SUBMITTER, OURS["jobs", "head"], 8265, inside=True)
    assert not reaches(SUBMITTER, OURS["serving", "head"], 8265, inside=True)


def test_prometheus_reaches_the_metrics_it_is_told_to_scrape() -> None:
    (monitor,) = [r["spec"] for r in RESOURCES if r["kind"] == "PodMonitor"]
    (policy,) = [r["spec"] for r in RESOURCES if r["kind"] == "NetworkPolicy" and r["metadata"]["name"] == "prometheus"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for (component, node), pod in OURS.items():
        assert selects(monitor["selector"], pod)
        assert selects(policy["podSelector"], pod)
        spec = CLUSTER_SPECS[component == "serving"]
        groups = [spec["headGroupSpec"]] if node == "head" else spec["workerGroupSpecs"]
        for group in groups:
            ports = {
                port["name"]: port["containerPort"] for port in group["template"]["spec"]["containers"][0]["ports"]
            }
            assert [ports[endpoint["port"]]] == [allowed["port"] for allowed in policy["ingress"][0]["ports"]]
    assert not selects(monitor["selector"], REDIS)
    assert not selects(monitor["selector"], SUBMITTER)


def test_a_drain_leaves_a_serving_worker_and_never_waits_for_ever() -> None:
    budget = one("PodDisruptionBudget", "serving")["spec"]
    assert selects(budget["selector"], OURS["serving", "worker"])
    for key in (("serving", "head"), ("jobs", "head"), ("jobs", "worker")):
        assert not selects(budget["selector"], OURS[key])
    (floor,) = [g["minReplicas"] for g in CLUSTER_SPECS[1]["workerGroupSpecs"] if g["groupName"] == "cpu"]
    assert 1 <= budget["minAvailable"] < floor
