"""Jobs of a cluster as this program knows them, and what becomes of a request beside those that are there.

A request's *fingerprint* is a digest of verb, arguments, resolved configuration and output; the code that is shipped is
not part of it. Its submission id is `ccp-ray-VERB-<12 hex>`, with `-2`, `-3` for further attempts: Ray refuses an id
twice, so two clients that submit the same request at once start it once. Ray keeps its jobs as long as the cluster
lives; what outlives the cluster is in the store, and there the same request continues as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ccp_ray.config import StrictModel
from ccp_ray.errors import UsageError

State = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
_VERB, _OUTPUT, _FINGERPRINT, _ATTEMPT = (f"ccp_ray.{name}" for name in ("verb", "output", "fingerprint", "attempt"))

_CAUSE = 600  # characters


class JobRequest(StrictModel):
    """What is asked: a verb with its arguments. `config` is resolved: all that files, overrides and defaults say."""

    verb: str
    arguments: dict[str, Any]
    config: dict[str, Any]
    output: str

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def submission_id(self, attempt: int) -> str:
        """Unique on a cluster, and the same for everyone who asks for the same."""
        return f"ccp-ray-{self.verb}-{self.fingerprint[:12]}" + (f"-{attempt}" if attempt > 1 else "")

    def metadata(self, attempt: int) -> dict[str, str]:
        """What Ray keeps beside the job. Everyone who may see the dashboard reads it."""
        return {_VERB: self.verb, _OUTPUT: self.output, _FINGERPRINT: self.fingerprint, _ATTEMPT: str(attempt)}


class JobRecord(StrictModel):
    """A job that was submitted by this program, as the cluster has it. Times in seconds since the epoch."""

    id: str
    state: State
    verb: str
    output: str
    fingerprint: str
    attempt: int
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str

    @property
    def ended_well(self) -> bool:
        return self.state == "SUCCEEDED"

    @property
    def over(self) -> bool:
        return self.state not in ("PENDING", "RUNNING")

    def told(self) -> dict[str, Any]:
        """For a program."""
        return self.model_dump(mode="json", exclude={"message"})

    def ending(self) -> str:
        """One line on how it ended, with the cause where Ray knows it and the log does not tell it."""
        if self.ended_well:
            return f"{self.id} succeeded"
        if self.state == "STOPPED":
            return f"{self.id} was stopped; submit the same again to continue"
        if self.exit_code is None:
            return f"{self.id} failed before its command started: {' '.join(self.message.split())[:_CAUSE]}"
        if self.exit_code == 127 or (self.exit_code == 1 and "No module named" in self.message):
            return (
                f"{self.id} failed: its command is not run by the Python that Ray has there; start Ray on the head "
                "with that environment's bin folder first in PATH, or submit with --python PATH"
            )
        return f"{self.id} failed with exit code {self.exit_code}; submit the same again to continue"

    def code(self) -> int:
        """The job's exit code; 1 where it has none; 128 and the signal's number where one ended it."""
        if self.ended_well:
            return 0
        code = self.exit_code or 1
        return 128 - code if code < 0 else code


def job_record(details: Any) -> JobRecord | None:
    """Of Ray's `JobDetails`; None for a job that this program did not submit."""
    told: Mapping[str, str] = details.metadata or {}
    if details.submission_id is None or not {_VERB, _OUTPUT, _FINGERPRINT, _ATTEMPT} <= told.keys():
        return None
    return JobRecord(
        id=details.submission_id,
        state=str(details.status),  # type: ignore[arg-type]
        verb=told[_VERB],
        output=told[_OUTPUT],
        fingerprint=told[_FINGERPRINT],
        attempt=int(told[_ATTEMPT]),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        message=details.message or "",
    )


class Decision(StrictModel):
    """What becomes of a request: `attach` to `job`, which runs; `done` by `job`; or `start` as an attempt."""

    action: Literal["attach", "done", "start"]
    job: JobRecord | None = None
    attempt: int = 1


def decide(request: JobRequest, records: Iterable[JobRecord]) -> Decision:
    """Of a request on a cluster with these jobs. Raises UsageError where another one runs onto the same output."""
    known = list(records)
    same = sorted((job for job in known if job.fingerprint == request.fingerprint), key=lambda job: job.attempt)
    for job in known:
        if not job.over and job.output == request.output and job.fingerprint != request.fingerprint:
            raise UsageError(
                f"{request.output}: job {job.id} ({job.verb}, {job.state}) writes there, and it was asked for "
                f"something else; wait for it, end it with ccp-ray stop {job.id}, or choose another --output"
            )
    if not same:
        return Decision(action="start")
    last = same[-1]
    if not last.over:
        return Decision(action="attach", job=last, attempt=last.attempt)
    if last.ended_well:
        return Decision(action="done", job=last, attempt=last.attempt)
    return Decision(action="start", job=last, attempt=last.attempt + 1)
