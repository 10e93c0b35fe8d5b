"""The client of the S3 side: made once a process and credential chain, and what is known of its endpoint.

Retries are botocore's standard mode (8 tries, exponential back-off with jitter), which covers 500, 503
SlowDown, throttling and cut connections; outages that last longer are `patience`'s. Whether the endpoint honours
`If-None-Match` is probed once a bucket and process: AWS and most do; some accept the header and overwrite all the same,
which the probe detects.

Certificates are verified, always: no setting here turns that off. AWS_CA_BUNDLE (or the profile's ca_bundle) names
authorities beyond botocore's own.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, SSLError

from ccp_ray.endpoint import checked_endpoint
from ccp_ray.patience import TRIES, VARIABLE, Patience, patience_s
from ccp_ray.storage_base import TEMPORARY
from ccp_ray.store_events import watch_requests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONFLICT = "ConditionalRequestConflict"
PRECONDITION = {"412", "PreconditionFailed"}
_CONNECT_S, _READ_S = 10.0, 60.0

# What decides which endpoint and which credentials a client uses. A change of any of them needs another client.
_CHAIN = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_CA_BUNDLE"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS"),
    VARIABLE,
)
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "doesn't match")
_lock = threading.Lock()
_clients: dict[bytes, S3Client] = {}
_conditional: dict[tuple[bytes, str], bool] = {}


def _scope() -> bytes:
    """Names the process (a client must not cross a fork) and the chain in force; a digest, so no secret lingers."""
    values = [str(os.getpid()), *(os.environ.get(name, "") for name in _CHAIN)]
    return hashlib.sha256("\0".join(values).encode()).digest()


def client() -> S3Client:
    """The client of this process and the credential chain in force."""
    scope = _scope()
    with _lock:
        if scope not in _clients:
            _clients[scope] = made = _new_client()
            watch_requests(made)
        return _clients[scope]


def _new_client() -> S3Client:
    made = _client_of_chain()
    checked_endpoint(made.meta.endpoint_url)
    made.meta.events.register_first("needs-retry.s3", _no_retry_of_untrusted)
    return made


def _no_retry_of_untrusted(caught_exception: Exception | None = None, **_: Any) -> None:
    """A certificate that is not trusted is not trusted at the eighth try either, a minute later."""
    if isinstance(caught_exception, SSLError) and any(words in str(caught_exception) for words in _UNTRUSTED):
        raise caught_exception


def _client_of_chain() -> S3Client:
    session = boto3.session.Session()  # boto3's default session would keep the first credentials it saw
    config = Config(
        retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", TRIES))},
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        max_pool_connections=32,
        # Endpoints other than AWS often refuse the newer default of a trailing checksum.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    made = session.client("s3", config=config)
    host = urlparse(made.meta.endpoint_url).hostname or ""
    chosen = session._session.get_scoped_config().get("s3")  # the profile's own `s3 = addressing_style = ...`
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) or (chosen and "addressing_style" in chosen):
        return _patient(made)
    # Elsewhere bucket names are seldom host names.
    return _patient(session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"}))))


def _patient(made: S3Client) -> S3Client:
    """Of all answers to `needs-retry` the first that is not None counts: botocore's own tries come before ours."""
    patience: Any = Patience(made.meta.endpoint_url, patience_s())
    made.meta.events.register_last("needs-retry.s3", patience.needs_retry)
    return made


def honours_if_none_match(bucket: str, prefix: str) -> bool:
    """Whether a conditional PUT is one. Probed below the prefix, where there may be a right to write."""
    scope = _scope()
    if (scope, bucket) not in _conditional:
        _conditional[scope, bucket] = _probe_if_none_match(client(), bucket, prefix)
    return _conditional[scope, bucket]


def _probe_if_none_match(s3: S3Client, bucket: str, prefix: str) -> bool:
    key = f"{prefix}/{TEMPORARY}probe-{uuid.uuid4().hex}".lstrip("/")
    s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*")
        return False
    except ClientError as error:
        if error_code(error) in (*PRECONDITION, CONFLICT):
            return True
        if error_code(error) in ("NotImplemented", "501"):
            return False
        raise
    finally:
        s3.delete_object(Bucket=bucket, Key=key)


def error_code(error: ClientError) -> str:
    """S3's own name of what went wrong, such as NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code", ""))
