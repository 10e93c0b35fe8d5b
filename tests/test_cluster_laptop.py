"""The compose file: fields that Compose knows, ports on loopback, credentials from the environment or no start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any, Literal

import pytest
from cluster_files import CLUSTER, ROOT, SECRET, dockerfile, documents, images
from pydantic import BaseModel, ConfigDict, Field

FILE = CLUSTER / "laptop/compose.yaml"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Build(Strict):
    context: str
    dockerfile: str
    target: str


class Health(Strict):
    test: list[str]
    interval: str
    timeout: str
    retries: int


class Wait(Strict):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"]


class Service(Strict):
    """What this file uses of a service, as the Compose Specification has it (compose-spec, 05-services)."""

    image: str
    command: str | list[str]
    build: Build | None = None
    entrypoint: list[str] = []
    environment: dict[str, str] = {}
    ports: list[str] = []
    volumes: list[str] = []
    depends_on: dict[str, Wait] = {}
    healthcheck: Health | None = None
    cap_drop: list[str] = []
    security_opt: list[str] = []
    init: bool = False
    shm_size: str | None = None
    ulimits: dict[str, int] = {}
    restart: Literal["no", "always", "on-failure", "unless-stopped"] = "no"


class Compose(Strict):
    name: str
    node: dict[str, Any] = Field(alias="x-node")
    services: dict[str, Service]
    volumes: dict[str, dict[str, str]]


COMPOSE = Compose.model_validate(documents(FILE)[0])
SERVICES = COMPOSE.services


def test_services_wait_for_each_other() -> None:
    assert set(SERVICES) == {"minio", "bucket", "head", "worker"}
    for service in SERVICES.values():
        for other, wait in service.depends_on.items():
            assert (wait.condition == "service_healthy") is (SERVICES[other].healthcheck is not None)
    assert SERVICES["worker"].depends_on.keys() == {"head"}


def test_ports_are_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.ports]
    assert {port.rpartition(":")[2] for port in ports} == {"9000", "9001", "8265"}
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_credentials_and_token_come_from_outside_or_nothing_starts() -> None:
    secret = {
        key: value
        for service in SERVICES.values()
        for key, value in service.environment.items()
        if SECRET.search(key) or key.endswith("USER")
    }
    assert len(secret) == 7
    assert all(re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value) for value in secret.values()), secret


def test_images_are_pinned_and_ours_is_the_dockerfiles() -> None:
    for name in ("minio", "bucket"):
        assert re.fullmatch(r"minio/(minio|mc):RELEASE\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", SERVICES[name].image)
    build = SERVICES["head"].build
    assert build is not None
    assert SERVICES["head"].image == SERVICES["worker"].image
    assert SERVICES["head"].image in images()
    assert build.target in dockerfile()
    assert SERVICES["head"].image.endswith(f"-{build.target}")
    assert (FILE.parent / build.context).resolve() == ROOT
    assert (ROOT / build.dockerfile).is_file()


def test_nodes_demand_a_token_and_have_no_rights() -> None:
    for name in ("head", "worker"):
        node = SERVICES[name]
        assert node.environment["RAY_AUTH_MODE"] == "token"
        assert node.cap_drop == ["ALL"]
        assert node.security_opt == ["no-new-privileges:true"]
        assert "--disable-usage-stats" in node.command


def test_docker_compose_takes_it() -> None:
    """Where Docker's plug-in is (it needs no engine for this); the models above are the check elsewhere."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose here")
    names = ("RAY_AUTH_TOKEN", "CCP_STORE_USER", "CCP_STORE_PASSWORD")
    given = {**os.environ, **dict.fromkeys(names, "x")}
    command = [docker, "compose", "-f", str(FILE), "config", "--quiet"]
    subprocess.run(command, env=given, check=True)
    for missing in names:
        without = {name: value for name, value in given.items() if name != missing}
        assert missing in subprocess.run(command, env=without, capture_output=True, text=True, check=False).stderr
