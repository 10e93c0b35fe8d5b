"""Where jobs go, and what of this machine's environment goes with them."""

from __future__ import annotations

import pytest

from ccp_ray.errors import UsageError
from ccp_ray.job_client import JobClient, UnreachableError, dashboard_url, passed_on, withheld

HEAD = "http://head.example:8265"


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
    assert passed_on(HEAD) == {
        "AWS_ENDPOINT_URL": "https://store.example:9000",
        "AWS_DEFAULT_REGION": "eu-1",
        "CCP_RAY_STORE_PATIENCE": "60",
        "CCP_RAY_LOGS": "json",
    }
    assert withheld(HEAD) == []


@pytest.mark.parametrize("endpoint", ["http://localhost:9000", "http://127.0.0.1:9000", "http://key:secret@store:9000"])
def test_this_machine_s_own_store_and_passwords_stay(monkeypatch: pytest.MonkeyPatch, endpoint: str):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert passed_on(HEAD) == {}
    assert withheld(HEAD) == ["AWS_ENDPOINT_URL"]
    on_this_machine = passed_on("http://127.0.0.1:8265")
    assert on_this_machine == ({} if "secret" in endpoint else {"AWS_ENDPOINT_URL": endpoint})


def test_a_password_in_an_address_is_not_shown():
    with pytest.raises(UnreachableError, match=r"cannot reach http://\*\*\*@127\.0\.0\.1:1/x: ") as refused:
        JobClient("http://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(refused.value)
