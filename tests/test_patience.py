"""A store that is out for longer than botocore tries: waited for, told, and given up in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from botocore.exceptions import EndpointConnectionError
from fault_proxy import REFUSALS, FaultProxy, fault_proxy
from s3_servers import Bucket, S3Server

from ccp_ray import patience, s3_client
from ccp_ray.errors import StoreError, UsageError
from ccp_ray.patience import Patience, patience_s
from ccp_ray.storage import open_store
from ccp_ray.store_watch import watched

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


@pytest.fixture(scope="module")
def proxy(moto_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(moto_server.endpoint) as started:
        yield started


@pytest.fixture
def place(proxy: FaultProxy, moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place on a store behind the proxy, whose outages are told after 0.05 s. botocore's own tries take no time."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr(s3_client, "_clients", {})
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr(patience, "_TOLD_AFTER_S", 0.05)
    monkeypatch.setattr(patience, "_LONGEST_WAIT_S", 0.02)
    proxy.clear()
    return f"{moto_bucket.uri}/p"


def out_for(proxy: FaultProxy, kind: str, seconds: float | None) -> None:
    """Every request meets the fault, until the time is over; None: for good."""
    for method in METHODS:
        proxy.inject(kind, method, times=None)
    if seconds is not None:
        threading.Timer(seconds, proxy.faults.clear).start()


@pytest.mark.parametrize("kind", ["503", "cut_request"])
def test_an_outage_within_the_patience_is_waited_for_and_told(place, proxy, monkeypatch, capsys, tmp_path, kind):
    monkeypatch.setenv(patience.VARIABLE, "30")
    store = open_store(place)
    store.write("before", b"1")
    for act in (
        lambda: store.write("x", b"2"),
        lambda: store.write_if_absent("y", b"3"),
        lambda: store.read("x"),
        lambda: [info.key for info in store.list()],
        lambda: store.download("x", tmp_path / "x"),
    ):
        out_for(proxy, kind, 0.25)
        began = time.monotonic()
        act()
        assert time.monotonic() - began >= 0.2
    assert [info.key for info in store.list()] == ["before", "x", "y"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 10, said
    assert said[0].startswith(f"store: {proxy.endpoint} has been out for ")
    assert "each request waits up to 30 s for it (CCP_RAY_STORE_PATIENCE)" in said[0]
    assert said[1].startswith(f"store: {proxy.endpoint} answers again, after ")


def test_a_conditional_write_is_its_own_after_an_outage(place, proxy, monkeypatch):
    """The first try got through, its answer and many tries after it did not."""
    monkeypatch.setenv(patience.VARIABLE, "30")
    store = open_store(place)
    store.write("before", b"1")
    store.conditional_writes()
    proxy.inject("lost_answer", "PUT", "p/x")
    proxy.inject("503", "PUT", "p/x", times=20)
    assert store.write_if_absent("x", b"2")
    assert proxy.met() == ["lost_answer"] + ["503"] * 20


def test_an_outage_beyond_the_patience_is_an_error(place, proxy, monkeypatch):
    monkeypatch.setenv(patience.VARIABLE, "0.5")
    store = open_store(place)
    store.write("x", b"1")
    out_for(proxy, "503", None)
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"p/x: the store asks to slow down, again and again; run again later"):
        store.read("x")
    assert 0.5 <= time.monotonic() - began < 60


def test_an_endpoint_that_never_answered_is_given_little_time(place, proxy, monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_S", 0.3)
    out_for(proxy, "cut_request", None)
    began = time.monotonic()
    with pytest.raises(StoreError, match="check the network"):
        open_store(place).read("x")
    assert time.monotonic() - began < 60


def test_a_refusal_is_an_answer(place, proxy):
    store = open_store(place)
    proxy.inject("403", "GET", times=None)
    with pytest.raises(StoreError, match="access denied"):
        store.read("x")
    assert proxy.met() == ["403"]


def test_the_number_of_tries_that_a_user_sets_stands(place, proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    store = open_store(place)
    store.write("x", b"1")
    out_for(proxy, "503", None)
    with pytest.raises(StoreError, match="slow down"):
        store.read("x")
    assert proxy.met() == ["503"] * 3


def test_a_driver_that_asks_nothing_hears_of_an_outage(place, proxy, monkeypatch, capsys):
    monkeypatch.setattr("ccp_ray.store_watch._EVERY_S", 0.05)
    store = open_store(place)
    store.write("_job.json", b"1")
    said = ""
    with watched(store):
        out_for(proxy, "503", 0.5)
        give_up = time.monotonic() + 10
        while "answers again" not in said and time.monotonic() < give_up:
            said += capsys.readouterr().err
            time.sleep(0.02)
    assert said.count("has been out for") == said.count("answers again") == 1


def test_waits_grow_to_a_cap_and_end_with_the_patience(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(patience.random, "uniform", lambda _, most: waits.append(most) or most)
    now = [0.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    asked, request = Patience("https://user:secret@store", 100.0, answered=True), {"context": {}}
    assert asked.endpoint == "https://***@store"
    error = EndpointConnectionError(endpoint_url="https://store")
    for attempts in range(1, 40):
        wait = asked.needs_retry(None, error, request, attempts)
        if wait is None:
            break
        now[0] += wait
    assert waits[8:14] == [2, 4, 8, 16, 20, 20]
    assert now[0] == pytest.approx(100.0)


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(monkeypatch, text):
    monkeypatch.setenv(patience.VARIABLE, text)
    with pytest.raises(UsageError, match=r"CCP_RAY_STORE_PATIENCE=.*expected seconds"):
        patience_s()


def test_every_status_that_the_proxy_knows_is_judged():
    class Http:
        def __init__(self, status: str) -> None:
            self.status_code = int(status)

    judged = {kind: patience._trouble((Http(kind), {"Error": {"Code": code}}), None) for kind, code in REFUSALS.items()}
    assert judged == {"403": None, "409": None, "500": "500 InternalError", "503": "503 SlowDown"}
