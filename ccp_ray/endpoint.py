"""What an endpoint's address may be: without credentials; and without encryption only with a word about it.

An address is written where credentials are not: into errors, into the environment of a cluster's workers and so into
Ray's metadata of the job. Plain http:// beyond this machine is common within a private network and is not refused, but
said once: requests are signed and the secret key does not travel, but all data does, and nobody signs the answers.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from ccp_ray.errors import UsageError
from ccp_ray.progress import say

_said: set[str] = set()


def holds_secrets(url: str) -> bool:
    """Whether an address has a place for some. Anywhere: a password with a slash in it looks like a path."""
    return "@" in url or "?" in url


def checked_endpoint(url: str) -> str:
    """The address. Raises UsageError, without showing it, where it holds a user name or a password."""
    if holds_secrets(url):
        raise UsageError(
            "AWS_ENDPOINT_URL (or the profile's endpoint_url): holds a user, a password or a query; expected "
            "https://HOST or https://HOST:PORT alone. Credentials come from the standard AWS chain"
        )
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname and not _is_here(parts.hostname) and url not in _said:
        _said.add(url)
        say(f"ccp-ray: {url} is not encrypted: whoever is on the way can read and alter what is stored; use https://")
    return url


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
