"""Jobs on a cluster through its dashboard's address alone: submit, list, stop, and what the nodes have.

Everything goes over HTTP, as Ray's job API does, with the token that Ray itself finds (RAY_AUTH_MODE=token and
RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH): from a laptop no other port need be reachable. The token goes into the requests'
header and nowhere else. Each node has its own credentials for the store and its own token: job drivers are children of
Ray's processes there and inherit them, so nothing secret is part of a job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from ccp_ray.cluster_room import Room, room
from ccp_ray.endpoint import holds_secrets
from ccp_ray.errors import CcpError, UsageError
from ccp_ray.job_package import Package
from ccp_ray.job_records import JobRecord, JobRequest, job_record
from ccp_ray.log_fields import VARIABLE as LOGS
from ccp_ray.model_code import VARIABLE as TRUST
from ccp_ray.patience import VARIABLE as PATIENCE

DEFAULT_PORT = 8265
_KNOCK_S = 10.0
_STOPPED_WITHIN_S = 120.0
_PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION", PATIENCE, LOGS, TRUST)


class UnreachableError(CcpError):
    """Nobody answers, or no longer; asking again later may help."""


class JobClient:
    """A cluster's jobs. Raises UsageError for no address, UnreachableError, CcpError for a refused token."""

    def __init__(self, address: str | None = None) -> None:
        self.url = dashboard_url(address)
        _knock(self.url)
        # Ray prefers the environment to what it is given; two addresses must not be mixed up.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.url
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard_sdk", "job.sdk"):  # uploads and closed connections, told as INFO
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
        with self._in_words():
            try:
                self.ray = JobSubmissionClient(self.url)
            except KeyError as error:
                raise CcpError(self._stranger(f"no {error} in its answer")) from None

    @cached_property
    def here(self) -> bool:
        """Whether the cluster's head is this machine.

        A port that ssh, kubectl or Docker brings here has a loopback address too, so the head's own is asked for.
        """
        return _is_loopback(self.url) and any(node.head and _is_own(node.address) for node in self.room().nodes)

    def check_versions(self) -> str:
        """The cluster's versions, for a person. Raises CcpError where it cannot run this program."""
        import ray

        with self._in_words():
            there = str(self._get("/api/version")["ray_version"])
            python = str(self._get("/api/v0/cluster_metadata")["data"]["pythonVersion"])
        if there.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise CcpError(
                f"{self.url} runs Ray {there}, this program needs {ray.__version__}: the nodes run this code "
                "with their own packages; install the version of constraints.txt there"
            )
        if not (3, 10) <= tuple(map(int, python.split(".")[:2])) < (3, 14):
            raise CcpError(f"{self.url} runs Python {python}, this program needs 3.10 to 3.13 on the cluster's nodes")
        return f"Ray {there}, Python {python}"

    def records(self) -> list[JobRecord]:
        """All jobs that this program submitted since the cluster started, oldest first."""
        with self._in_words():
            known = [record for record in map(job_record, self.ray.list_jobs()) if record]
        return sorted(known, key=lambda job: (job.started or 0.0, job.id))

    def record(self, job: str) -> JobRecord:
        """One job. Raises UsageError where it is not known."""
        with self._in_words(job):
            found = job_record(self.ray.get_job_info(job))
        if found is None:
            raise UsageError(f"{job}: this job was not submitted by ccp-ray; see ray job list")
        return found

    def logs(self, job: str) -> str:
        """All that a job has written."""
        with self._in_words(job):
            return str(self.ray.get_job_logs(job))

    def submit(self, request: JobRequest, attempt: int, entrypoint: str, package: Package) -> str:
        """Upload the package (where the cluster has it not) and start the job. Returns its id.

        Where someone else submitted the same in the meantime, it is theirs that runs.
        """
        job = request.submission_id(attempt)
        with tempfile.TemporaryDirectory(prefix="ccp-ray-package-") as scratch:
            archive = Path(scratch, "package.zip")
            package.write(archive)
            with self._in_words():
                try:
                    self.ray.submit_job(
                        entrypoint=entrypoint,
                        submission_id=job,
                        runtime_env={"working_dir": str(archive), "env_vars": passed_on(self.here)},
                        metadata=request.metadata(attempt),
                    )
                except RuntimeError as error:
                    if f"{job} already exists" not in str(error):
                        raise
        return job

    def stop(self, job: str) -> tuple[JobRecord, bool]:
        """End a job and wait until it has. Returns it, and whether it was still at work. Raises CcpError if it is.

        Asked again each second: while the job's supervisor starts, Ray has nobody to tell.
        """
        record = self.record(job)
        if record.over:
            return record, False
        give_up = time.monotonic() + _STOPPED_WITHIN_S
        while not record.over and time.monotonic() < give_up:
            with self._in_words(job):
                self.ray.stop_job(job)
            time.sleep(0.5)
            record = self.record(job)
        if not record.over:
            raise CcpError(f"{job} is still {record.state} {_STOPPED_WITHIN_S:.0f} s after it was told to stop")
        return record, True

    def room(self) -> Room:
        """Nodes, what they have, and what of it is free."""
        with self._in_words():
            nodes = self._get("/api/v0/nodes?detail=1&limit=10000")["data"]["result"]["result"]
            status = self._get("/api/cluster_status")["data"].get("clusterStatus") or {}
        return room(nodes, (status.get("loadMetricsReport") or {}).get("usageByNode"))

    def _get(self, path: str) -> Any:
        answer = self.ray._do_request("GET", path)  # the client's own, for its token and certificates
        answer.raise_for_status()
        return answer.json()

    @contextlib.contextmanager
    def _in_words(self, job: str | None = None) -> Iterator[None]:
        """What Ray's client raises, as errors that say what to do."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise CcpError(refusal(self.url, 403 if "failed" in error.message else 401)) from None
        except (ConnectionError, requests.ConnectionError, requests.Timeout) as error:
            raise UnreachableError(
                f"{self.url} does not answer ({type(error).__name__}); is the cluster up, and is this the "
                "address of its dashboard?"
            ) from None
        except requests.RequestException as error:
            raise CcpError(self._stranger(str(error).splitlines()[0])) from None
        except RuntimeError as error:
            if "Version check returned 404" in str(error):
                raise CcpError(self._stranger("it knows no version")) from None
            raise _explained(self.url, job, str(error)) from None

    def _stranger(self, why: str) -> str:
        return (
            f"{self.url} does not answer as a Ray dashboard does ({why}); a dashboard's port is {DEFAULT_PORT} "
            "where nobody chose another"
        )


def dashboard_url(address: str | None) -> str:
    """The address as given, else as Ray's own tools find it in the environment. Raises UsageError for none."""
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    example = f"for example http://HEAD:{DEFAULT_PORT}"
    if not given:
        raise UsageError(
            f"--address: give the address of the cluster's dashboard, {example} (or RAY_API_SERVER_ADDRESS)"
        )
    url = given if "://" in given else f"http://{given}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or given in ("auto", "local"):
        raise UsageError(f"--address {given}: jobs go to the cluster's dashboard, {example}")
    return url.rstrip("/")


def refusal(url: str, status: int) -> str:
    """A request without a token (401) or with a wrong one (403), in words."""
    if status == 401:
        return f"{url} demands a token and got none: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    return f"{url} refuses the token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token): it is another's"


def passed_on(here: bool) -> dict[str, str]:
    """Where the store is, how long to wait for it, how to log and which models' code may run, for the job; never a
    credential: nodes have their own chain.

    A store on this machine's loopback is none for a cluster that is not `here`, and an address with a password stays.
    """
    found = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
    return {
        name: value for name, value in found.items() if (here or not _is_loopback(value)) and not holds_secrets(value)
    }


def withheld(here: bool) -> list[str]:
    """Names of what `passed_on` keeps back."""
    return [name for name in _PASSED_ON if os.environ.get(name) and name not in passed_on(here)]


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _is_own(address: str) -> bool:
    """Whether one of this machine's interfaces has it."""
    return any(address == each.address for addresses in psutil.net_if_addrs().values() for each in addresses)


def _knock(url: str) -> None:
    """Ray's client has no time limit: without this, a host that drops packets is silence for minutes."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((str(parts.hostname), port), timeout=_KNOCK_S).close()
    except OSError as error:
        raise UnreachableError(
            f"cannot reach {url}: {error.strerror or error}; is the cluster up, and is this the address of its "
            f"dashboard (port {DEFAULT_PORT} where nobody chose another)?"
        ) from None


def _explained(url: str, job: str | None, text: str) -> CcpError:
    """Ray's client says all in one string: "Request failed with status code 404: Job x does not exist."."""
    if job and "does not exist" in text:
        return UsageError(f"{job}: no such job on {url} (a cluster forgets its jobs when it ends); see ccp-ray jobs")
    status = re.search(r"status code (\d+)", text)
    lines = [line for line in text.strip().splitlines() if line.strip()] or [text]
    told = lines[-1].strip() if status else lines[0]
    return CcpError(f"{url}: {told}")
