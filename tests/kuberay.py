"""KubeRay's custom resources as strict models: what ray.io/v1 knows of RayCluster and RayJob, but for pod templates.

Written from KubeRay's "CRD API reference" (docs.ray.io, KubeRay 1.7) and its Go types `raycluster_types.go` and
`rayjob_types.go`, of which it has what a cluster for jobs may use. An API server drops a field that it does not know
with a warning at most, so a misspelt one would go unnoticed there: here it is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Template = dict[str, Any]  # a pod template, which Kubernetes' own schemas check
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str = Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=47)  # KubeRay appends to it, DNS allows 63
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class AuthOptions(Strict):
    mode: Literal["token", "disabled"] = "token"


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"] | None = None
    idleTimeoutSeconds: Count | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    image: str | None = None
    imagePullPolicy: Literal["Always", "Never", "IfNotPresent"] | None = None
    resources: dict[str, dict[str, str]] | None = None
    env: list[dict[str, Any]] = []
    envFrom: list[dict[str, Any]] = []
    volumeMounts: list[dict[str, Any]] = []
    securityContext: dict[str, Any] | None = None


class HeadGroup(Strict):
    template: Template
    rayStartParams: dict[str, str]
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = None
    headService: dict[str, Any] | None = None
    enableIngress: bool | None = None


class WorkerGroup(Strict):
    groupName: str
    template: Template
    rayStartParams: dict[str, str]
    replicas: Count = 0
    minReplicas: Count = 0
    maxReplicas: Count
    numOfHosts: Annotated[int, Field(ge=1)] = 1
    idleTimeoutSeconds: Count | None = None
    suspend: bool | None = None
    scaleStrategy: dict[str, list[str]] | None = None

    @model_validator(mode="after")
    def _bounds(self) -> WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError(f"{self.groupName}: {self.minReplicas} <= {self.replicas} <= {self.maxReplicas} is not so")
        return self


class ClusterSpec(Strict):
    rayVersion: str
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = []
    authOptions: AuthOptions | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    enableInTreeAutoscaling: bool | None = None
    headServiceAnnotations: dict[str, str] = {}
    gcsFaultToleranceOptions: dict[str, Any] | None = None
    suspend: bool | None = None
    managedBy: str | None = None

    @model_validator(mode="after")
    def _scaling(self) -> ClusterSpec:
        if self.autoscalerOptions and not self.enableInTreeAutoscaling:
            raise ValueError("autoscalerOptions without enableInTreeAutoscaling")
        return self


class JobSpec(Strict):
    entrypoint: str = Field(min_length=1)
    rayClusterSpec: ClusterSpec
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"] = "K8sJobMode"
    submitterPodTemplate: Template | None = None
    submitterConfig: dict[Literal["backoffLimit"], int] | None = None
    backoffLimit: Count = 0
    activeDeadlineSeconds: Annotated[int, Field(ge=1)] | None = None
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Count = 0
    entrypointNumCpus: float | None = None
    entrypointNumGpus: float | None = None
    entrypointResources: str | None = None
    runtimeEnvYAML: str | None = None
    jobId: str | None = None
    metadata: dict[str, str] = {}
    clusterSelector: dict[str, str] = {}
    suspend: bool | None = None
    managedBy: str | None = None

    @model_validator(mode="after")
    def _lifetime(self) -> JobSpec:
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished works only with shutdownAfterJobFinishes")
        return self


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec

    @property
    def cluster(self) -> ClusterSpec:
        return self.spec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec

    @property
    def cluster(self) -> ClusterSpec:
        return self.spec.rayClusterSpec


def resource(document: dict[str, Any]) -> RayCluster | RayJob:
    """A manifest's document. Raises ValidationError for a field that KubeRay does not know."""
    kind = RayJob if document["kind"] == "RayJob" else RayCluster
    return kind.model_validate(document)


def templates(found: RayCluster | RayJob) -> dict[str, Template]:
    """Every pod template by its place: head, the worker groups' names, submitter."""
    pods = {"head": found.cluster.headGroupSpec.template}
    pods |= {group.groupName: group.template for group in found.cluster.workerGroupSpecs}
    if isinstance(found, RayJob) and found.spec.submitterPodTemplate is not None:
        pods["submitter"] = found.spec.submitterPodTemplate
    return pods
