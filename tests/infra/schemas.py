"""What Kubernetes, KubeRay and Prometheus's operator accept, as far as O2N's manifests go.

Kubernetes' own schemas come with kubernetes-validate. No package carries KubeRay's or the operator's, so the parts that
are used are modelled here, strictly: compared by hand with the resource definitions of KubeRay 1.7 and
of the operator, where a field that a
definition does not know is silently dropped by the API server.
"""

from typing import Annotated, Any, Literal

import kubernetes_validate
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# The oldest that knows everything we use (preStop.sleep), and the newest there is a schema of.
KUBERNETES = ("1.30", "1.37")

Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")]  # 47 characters, of a RayService
Quantity = Annotated[str | int, Field(pattern=r"^\d+(\.\d+)?(m|[KMGT]i?)?$")]


def check_kubernetes(resource: dict[str, Any]) -> None:
    """Raise kubernetes_validate.ValidationError for a resource that Kubernetes would refuse or lose a field of."""
    for version in KUBERNETES:
        kubernetes_validate.validate(resource, version, strict=True)


def _pod_template(template: Any) -> Any:
    check_kubernetes({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "p"}, "template": template})
    return template


PodTemplate = Annotated[dict[str, Any], BeforeValidator(_pod_template)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: Name
    namespace: Name
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class KeyRef(Strict):
    name: Name
    key: str


class ValueFrom(Strict):
    secretKeyRef: KeyRef


class Credential(Strict):
    valueFrom: ValueFrom


class AuthOptions(Strict):
    mode: Literal["token"]


class GcsFaultToleranceOptions(Strict):
    redisAddress: str = Field(pattern=r"^[a-z0-9.-]+:\d+$")
    redisPassword: Credential


class Resources(Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class AutoscalerOptions(Strict):
    version: Literal["v2"]
    idleTimeoutSeconds: int = Field(ge=0)
    resources: Resources
    securityContext: dict[str, Any]
    volumeMounts: list[dict[str, str]]


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(HeadGroup):
    groupName: Name
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=0)


class RayClusterSpec(Strict):
    rayVersion: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    authOptions: AuthOptions
    gcsFaultToleranceOptions: GcsFaultToleranceOptions
    enableInTreeAutoscaling: Literal[True]
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class SubmitterConfig(Strict):
    backoffLimit: int = Field(ge=0)


class RayJobSpec(Strict):
    clusterSelector: dict[str, str]
    entrypoint: str
    entrypointNumCpus: float = Field(gt=0)
    runtimeEnvYAML: str | None = None
    submissionMode: Literal["K8sJobMode"]
    submitterConfig: SubmitterConfig
    submitterPodTemplate: PodTemplate


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class UpgradeStrategy(Strict):
    type: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]


class RayServiceSpec(Strict):
    upgradeStrategy: UpgradeStrategy
    rayClusterDeletionDelaySeconds: int = Field(ge=0)
    excludeHeadPodFromServeSvc: bool
    serveConfigV2: str
    rayClusterConfig: RayClusterSpec


class RayService(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: RayServiceSpec


class Expression(Strict):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str]


class Selector(Strict):
    matchLabels: dict[str, str]
    matchExpressions: list[Expression] = []


class Relabeling(Strict):
    sourceLabels: list[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]]
    targetLabel: str = Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")


class PodMetricsEndpoint(Strict):
    port: str
    interval: str = Field(pattern=r"^\d+(s|m)$")
    relabelings: list[Relabeling]


class PodMonitorSpec(Strict):
    selector: Selector
    podMetricsEndpoints: list[PodMetricsEndpoint]


class PodMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: PodMonitorSpec


class Rule(Strict):
    alert: str
    expr: str
    duration: str = Field("0s", alias="for", pattern=r"^\d+(s|m|h)$")
    labels: dict[str, str]
    annotations: dict[str, str]


class RuleGroup(Strict):
    name: str
    rules: list[Rule]


class PrometheusRuleSpec(Strict):
    groups: list[RuleGroup]


class PrometheusRule(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: PrometheusRuleSpec


CUSTOM: dict[str, type[BaseModel]] = {
    model.__name__: model for model in (RayCluster, RayJob, RayService, PodMonitor, PrometheusRule)
}


def check(resource: dict[str, Any]) -> None:
    """Raise where an API server with KubeRay would refuse `resource`, or drop a part of it."""
    if resource["kind"] in CUSTOM:
        CUSTOM[resource["kind"]].model_validate(resource)
    else:
        check_kubernetes(resource)
