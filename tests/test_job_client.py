"""Where jobs go, and what of this machine's environment goes with them."""

from __future__ import annotations

import pytest

from ccp_ray.cluster_room import Node, Room
from ccp_ray.errors import UsageError
from ccp_ray.job_client import JobClient, UnreachableError, dashboard_url, passed_on, withheld


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)


def test_what_is_given_wins_then_the_environment_as_ray_reads_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://b:2")
    assert dashboard_url(None) == "http://b:2"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://a:1/")
    assert dashboard_url(None) == "http://a:1"
    assert dashboard_url("c:3") == "http://c:3"
    assert dashboard_url("https://d/ray") == "https://d/ray"


@pytest.mark.parametrize("address", ["auto", "local", "ray://head:10001", "http://"])
def test_what_is_no_dashboard_s_address_is_refused(address: str):
    with pytest.raises(UsageError, match="for example http://HEAD:8265"):
        dashboard_url(address)


def test_places_go_along_and_credentials_do_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example:9000")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "planted")
    monkeypatch.setenv("CCP_RAY_STORE_PATIENCE", "60")
    monkeypatch.setenv("CCP_RAY_LOGS", "json")
    assert passed_on(here=False) == {
        "AWS_ENDPOINT_URL": "https://store.example:9000",
        "AWS_DEFAULT_REGION": "eu-1",
        "CCP_RAY_STORE_PATIENCE": "60",
        "CCP_RAY_LOGS": "json",
    }
    assert withheld(here=False) == []


@pytest.mark.parametrize(
    "endpoint",
    [
        *("http://localhost:9000", "http://127.0.0.1:9000", "http://key:secret@store:9000", "key:secret@store:9000"),
        *("http://key:secret/more@store:9000", "https://store:9000/?password=secret"),
    ],
)
def test_this_machine_s_own_store_and_passwords_stay(monkeypatch: pytest.MonkeyPatch, endpoint: str):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert passed_on(here=False) == {}
    assert withheld(here=False) == ["AWS_ENDPOINT_URL"]
    on_this_machine = passed_on(here=True)
    assert on_this_machine == ({} if "secret" in endpoint else {"AWS_ENDPOINT_URL": endpoint})


@pytest.mark.parametrize(
    ("url", "head", "here"),
    [
        ("http://localhost:8265", "127.0.0.1", True),
        ("http://localhost:8265", "10.1.2.3", False),  # a port that ssh or Docker brings here
        ("http://10.1.2.3:8265", "10.1.2.3", False),
    ],
)
def test_a_forwarded_port_is_not_a_cluster_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, url: str, head: str, here: bool
):
    client = object.__new__(JobClient)
    client.url = url
    nodes = [Node(address=head, head=True, cpus=1, gpus=0), Node(address="127.0.0.1", head=False, cpus=1, gpus=0)]
    monkeypatch.setattr(client, "room", lambda: Room(nodes=nodes))
    assert client.here is here


def test_a_password_in_an_address_is_not_shown():
    with pytest.raises(UnreachableError, match=r"cannot reach http://\*\*\*@127\.0\.0\.1:1/x: ") as refused:
        JobClient("http://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(refused.value)
