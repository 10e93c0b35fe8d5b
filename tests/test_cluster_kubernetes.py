"""The manifests for KubeRay: known to Kubernetes and KubeRay, and asking for what their commands need."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from cluster_files import CLUSTER, ROOT, SECRET, dockerfile, documents, images, parsed, pinned
from kuberay import RayCluster, RayJob, resource, templates
from pydantic import ValidationError

from ccp_ray.config import load_config
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.pretrain_job import plan_workers
from eval.evaluate import EvaluateConfig
from jobs.pipeline import PipelineConfig, recipe_file

FOLDER = CLUSTER / "kubernetes"
FILES = {
    path.name: resource(documents(path)[0]) for path in sorted(FOLDER.glob("*.yaml")) if path.name != "access.yaml"
}
ACCOUNT, POLICY = documents(FOLDER / "access.yaml")
JOBS = {name: each for name, each in FILES.items() if isinstance(each, RayJob)}
KUBERNETES = ("1.30", "1.37")  # the oldest and newest that the schemas are tried for
PODS = [(name, pod) for name, each in FILES.items() for pod in templates(each)]
OURS = {"app.kubernetes.io/part-of": "ccp-ray"}


def pod(name: str, place: str) -> dict[str, Any]:
    return templates(FILES[name])[place]


def container(name: str, place: str) -> dict[str, Any]:
    (only,) = pod(name, place)["spec"]["containers"]
    return only


def amounts(name: str, place: str) -> dict[str, Fraction]:
    """What a pod asks for: cpu, gpu, memory in GiB."""
    asked = container(name, place)["resources"]["requests"]
    cpu, memory = asked["cpu"], asked["memory"]
    assert memory.endswith("Gi")
    cores = Fraction(cpu.removesuffix("m")) / (1000 if cpu.endswith("m") else 1)
    return {"cpu": cores, "gpu": Fraction(asked.get("nvidia.com/gpu", 0)), "GiB": Fraction(memory[:-2])}


def offered(name: str) -> dict[str, Fraction]:
    """The most that a cluster's workers offer together."""
    total = dict.fromkeys(("cpu", "gpu", "GiB"), Fraction(0))
    for group in FILES[name].cluster.workerGroupSpecs:
        for what, amount in amounts(name, group.groupName).items():
            total[what] += group.maxReplicas * amount
    return total


def test_one_file_for_each_way_to_run() -> None:
    assert set(JOBS) == {"quickstart.yaml", "pretrain.yaml", "embed.yaml", "evaluate.yaml"}
    assert set(FILES) - set(JOBS) == {"cluster.yaml"}
    assert len({each.metadata.name for each in FILES.values()}) == len(FILES)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize(("name", "place"), PODS)
def test_pods_are_kubernetes_own(name: str, place: str, kubernetes: str) -> None:
    template = pod(name, place)
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}}
    kubernetes_validate.validate({**whole, "spec": template["spec"]}, kubernetes, strict=True)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("document", [ACCOUNT, POLICY], ids=["account", "policy"])
def test_access_is_kubernetes_own(document: dict[str, Any], kubernetes: str) -> None:
    kubernetes_validate.validate(document, kubernetes, strict=True)


def test_a_misspelt_field_is_found() -> None:
    """The validators themselves: without this, all that is above could be passing everything."""
    document = documents(FOLDER / "quickstart.yaml")[0]
    document["spec"]["backofLimit"] = 3
    with pytest.raises(ValidationError, match="backofLimit"):
        resource(document)
    template = json.loads(json.dumps(pod("quickstart.yaml", "head")))
    template["spec"]["containers"][0]["envfrom"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="envfrom"):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]},
            "1.30",
            strict=True,
        )


@pytest.mark.parametrize("name", FILES)
def test_ray_is_the_pinned_one_and_demands_a_token(name: str) -> None:
    cluster = FILES[name].cluster
    assert cluster.rayVersion == pinned("ray")
    assert cluster.authOptions is not None
    assert cluster.authOptions.mode == "token"
    assert cluster.headGroupSpec.serviceType == "ClusterIP"
    assert not cluster.headGroupSpec.enableIngress
    assert cluster.headGroupSpec.rayStartParams["num-cpus"] == "0"


@pytest.mark.parametrize(("name", "place"), PODS)
def test_a_pod_runs_our_image_locked_down(name: str, place: str) -> None:
    spec, main = pod(name, place)["spec"], container(name, place)
    gpu = amounts(name, place)["gpu"]
    assert main["image"] in images()
    assert main["image"].endswith("-gpu") or not gpu
    assert pod(name, place)["metadata"]["labels"] == OURS  # else the network policy would not see it
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert [str(spec["securityContext"]["runAsUser"])] == dockerfile()["cpu"].of("USER")
    assert main["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert main["resources"]["requests"] == main["resources"]["limits"]
    scales = place == "head" and bool(FILES[name].cluster.enableInTreeAutoscaling)
    assert spec["automountServiceAccountToken"] is scales


@pytest.mark.parametrize("name", FILES)
def test_ray_is_told_of_as_many_gpus_as_the_pod_gets(name: str) -> None:
    for group in FILES[name].cluster.workerGroupSpecs:
        assert Fraction(group.rayStartParams.get("num-gpus", 0)) == amounts(name, group.groupName)["gpu"]


@pytest.mark.parametrize(("name", "place"), [each for each in PODS if each[1] != "submitter"])
def test_a_node_reaches_the_store_by_role_or_secret(name: str, place: str) -> None:
    assert pod(name, place)["spec"]["serviceAccountName"] == ACCOUNT["metadata"]["name"]
    assert container(name, place)["envFrom"] == [{"secretRef": {"name": "ccp-ray-store", "optional": True}}]


def values(node: object) -> list[tuple[str, object]]:
    """Every name with its value, at any depth; an entry of `env` under its own name."""
    if isinstance(node, list):
        return [found for each in node for found in values(each)]
    if not isinstance(node, dict):
        return []
    own = [(str(node["name"]), node["value"])] if {"name", "value"} <= set(node) else []
    return own + [(str(key), each) for key, each in node.items()] + [f for each in node.values() for f in values(each)]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_no_secret_is_written_down(path: Path) -> None:
    names = {"automountServiceAccountToken", "authOptions", "secretRef"}
    found = [(key, value) for each in documents(path) for key, value in values(each) if SECRET.search(key)]
    assert [key for key, value in found if key not in names and isinstance(value, str)] == []
    assert all(each["kind"] != "Secret" for each in documents(path))


def test_only_the_cluster_its_operator_and_prometheus_come_in() -> None:
    assert POLICY["spec"]["podSelector"] == {"matchLabels": OURS}
    assert POLICY["spec"]["policyTypes"] == ["Ingress", "Egress"]
    own, operator, prometheus = POLICY["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": OURS}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert [port["port"] for port in prometheus["ports"]] == [8080]
    assert all(peer["podSelector"] for rule in (operator, prometheus) for peer in rule["from"])


def test_what_goes_out_is_names_and_https_and_never_the_nodes_own_metadata() -> None:
    own, names, world = POLICY["spec"]["egress"]
    assert own == {"to": [{"podSelector": {"matchLabels": OURS}}]}
    assert {port["port"] for port in names["ports"]} == {53}
    assert {port["port"] for port in world["ports"]} == {443, 6443}
    assert world["to"] == [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
        {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::/32", "fe80::/10"]}},
    ]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_ends_its_cluster_and_is_tried_again(name: str) -> None:
    spec = JOBS[name].spec
    assert spec.shutdownAfterJobFinishes
    assert 0 < spec.ttlSecondsAfterFinished <= 600
    assert spec.backoffLimit >= 1
    assert spec.activeDeadlineSeconds


@pytest.mark.parametrize("name", JOBS)
def test_entrypoints_are_commands_of_ours(name: str) -> None:
    _, options = parsed(JOBS[name].spec.entrypoint)
    assert options["address"] == "auto"
    assert options["output"].startswith("s3://BUCKET/")


def recipe(name: str) -> PipelineConfig:
    verb, options = parsed(JOBS[name].spec.entrypoint)
    assert verb == "pipeline"
    return load_config(PipelineConfig, [recipe_file(each) for each in options["config"]], options["overrides"] or ())


@pytest.mark.parametrize(("name", "workers", "gpu"), [("quickstart.yaml", 2, False), ("pretrain.yaml", 8, True)])
def test_workers_of_a_recipe_find_room(name: str, workers: int, gpu: bool) -> None:
    whole, room = recipe(name), offered(name)
    config = whole.pretrain
    assert plan_workers(config, int(room["cpu"]), int(room["gpu"])) == (workers, gpu)
    assert room["cpu"] >= workers * config.resources.cpus_per_worker
    assert room["gpu"] >= workers * gpu
    assert all(whole.path(place).startswith("s3://BUCKET/") for place in whole.documents)


def test_embedding_scales_from_nothing_to_what_it_asks_for() -> None:
    verb, options = parsed(JOBS["embed.yaml"].spec.entrypoint)
    asked, room = load_config(EmbedConfig, [], options["overrides"]).resources, offered("embed.yaml")
    (group,) = JOBS["embed.yaml"].cluster.workerGroupSpecs
    assert (verb, asked.gpu, group.minReplicas, group.replicas) == ("embed", True, 0, 0)
    assert JOBS["embed.yaml"].cluster.enableInTreeAutoscaling
    assert isinstance(asked.workers, tuple)
    assert asked.workers[1] == room["gpu"]
    # Encoders take a GPU and no CPU, tokenizers a fifth of a CPU (ccp_ray/embed.py); uploads want some of what is left.
    assert asked.tokenizers is not None
    assert Fraction(asked.tokenizers, 5) <= room["cpu"] / 2


def test_evaluation_uses_the_images_own_recipe() -> None:
    _, options = parsed(JOBS["evaluate.yaml"].spec.entrypoint)
    (inside,) = options["config"]
    place = dockerfile()["code"].of("WORKDIR")[0]
    assert load_config(EvaluateConfig, [str(ROOT / Path(inside).relative_to(place))], ()).tatoeba.languages
    assert options["encoder"].removesuffix("/encoder") == options["calibration"].removesuffix("/calibration")
    _, trained = parsed(JOBS["pretrain.yaml"].spec.entrypoint)
    assert options["encoder"] == f"{trained['output']}/encoder"


def test_a_standing_cluster_is_idle_without_workers() -> None:
    standing = FILES["cluster.yaml"]
    assert isinstance(standing, RayCluster)
    assert standing.cluster.enableInTreeAutoscaling
    assert all(group.replicas == group.minReplicas == 0 for group in standing.cluster.workerGroupSpecs)
