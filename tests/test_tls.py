"""The store's certificate is verified, by a real handshake: what this machine does not trust is refused at once."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fault_proxy import FaultProxy, fault_proxy
from s3_servers import Bucket

from ccp_ray import endpoint
from ccp_ray.errors import StoreError, UsageError
from ccp_ray.session import _worker_environment
from ccp_ray.storage import open_store


def self_signed(folder: Path, address: str, days: int) -> tuple[ssl.SSLContext, Path]:
    """A server's side with a certificate of its own for an address, valid for days, and that certificate's file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    return context, certificate


@contextmanager
def served(
    bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch, address: str = "127.0.0.1", days: int = 1
) -> Iterator[tuple[FaultProxy, Path]]:
    """The bucket's server by https://, and where this process's chain leads."""
    context, certificate = self_signed(folder, address, days)
    with fault_proxy(bucket.server.endpoint, tls=context) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy, certificate


def test_a_self_signed_certificate_is_refused_at_once_and_taken_when_it_is_named(moto_bucket, tmp_path, monkeypatch):
    with served(moto_bucket, tmp_path, monkeypatch) as (proxy, certificate):
        with pytest.raises(StoreError, match=r"self.signed certificate.*AWS_CA_BUNDLE, on every node"):
            open_store(moto_bucket.uri).write("x", b"secret text")
        assert proxy.seen == []  # no request, so no data, went to a server that nobody vouches for
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        open_store(moto_bucket.uri).write("x", b"text")
        assert open_store(moto_bucket.uri).read("x") == b"text"
        assert {seen.method for seen in proxy.seen} == {"PUT", "GET"}


@pytest.mark.parametrize(("address", "days"), [("127.0.0.2", 1), ("127.0.0.1", -1)], ids=["another host", "expired"])
def test_a_certificate_that_is_not_valid_is_refused_though_it_is_trusted(
    moto_bucket, tmp_path, monkeypatch, address, days
):
    with served(moto_bucket, tmp_path, monkeypatch, address, days) as (proxy, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        with pytest.raises(StoreError, match="certificate"):
            open_store(moto_bucket.uri).read("x")
        assert proxy.seen == []


@pytest.mark.parametrize(
    "url",
    ["https://user:planted@store:9000", "https://u:a/planted@store:9000", "https://store/?X-Amz-Signature=planted"],
)
def test_an_endpoint_with_credentials_is_refused_and_not_shown(moto_bucket, monkeypatch, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    for action in (lambda: open_store(moto_bucket.uri).read("x"), _worker_environment):
        with pytest.raises(UsageError, match=r"AWS_ENDPOINT_URL .* expected https://HOST") as caught:
            action()
        assert "planted" not in str(caught.value)


def test_an_endpoint_without_encryption_is_said_once_unless_it_is_this_machine(monkeypatch, capsys):
    monkeypatch.setattr(endpoint, "_said", set())
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://store", ""):
        endpoint.checked_endpoint(url)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        endpoint.checked_endpoint("http://store:9000")
    said = capsys.readouterr().err
    assert said.count("http://store:9000 is not encrypted") == 1
