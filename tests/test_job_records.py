"""What becomes of a request beside the jobs that a cluster has."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ccp_ray.errors import UsageError
from ccp_ray.job_records import JobRecord, JobRequest, decide, job_record

REQUEST = JobRequest(verb="embed", arguments={"encoder": "s3://b/e"}, config={"dtype": "float16"}, output="s3://b/out")
OTHER = REQUEST.model_copy(update={"config": {"dtype": "float32"}})
ELSEWHERE = REQUEST.model_copy(update={"output": "s3://b/other"})


def job(request: JobRequest, state: str, attempt: int = 1, **changes: object) -> JobRecord:
    """As it comes back from the cluster."""
    details = {
        "submission_id": request.submission_id(attempt),
        "status": state,
        "metadata": request.metadata(attempt),
        "start_time": 1_700_000_000_000 + attempt,
        "end_time": None,
        "driver_exit_code": None,
        "message": "",
    }
    record = job_record(SimpleNamespace(**{**details, **changes}))
    assert record is not None
    return record


def test_an_id_is_the_request_s_alone():
    assert REQUEST.submission_id(1) == f"ccp-ray-embed-{REQUEST.fingerprint[:12]}"
    assert REQUEST.submission_id(2) == f"{REQUEST.submission_id(1)}-2"
    assert len({REQUEST.fingerprint, OTHER.fingerprint, ELSEWHERE.fingerprint}) == 3
    swapped = JobRequest.model_validate(dict(reversed(REQUEST.model_dump().items())))
    assert swapped.fingerprint == REQUEST.fingerprint


def test_what_ray_keeps_beside_a_job_holds_no_configuration():
    assert sorted(REQUEST.metadata(2)) == [f"ccp_ray.{name}" for name in ("attempt", "fingerprint", "output", "verb")]


@pytest.mark.parametrize(
    ("states", "action", "attempt"),
    [
        ([], "start", 1),
        (["PENDING"], "attach", 1),
        (["RUNNING"], "attach", 1),
        (["SUCCEEDED"], "done", 1),
        (["FAILED"], "start", 2),
        (["STOPPED", "FAILED"], "start", 3),
        (["FAILED", "RUNNING"], "attach", 2),
        (["FAILED", "SUCCEEDED"], "done", 2),
    ],
)
def test_what_becomes_of_a_request(states: list[str], action: str, attempt: int):
    known = [job(REQUEST, state, number) for number, state in enumerate(states, 1)]
    others = [job(OTHER, "SUCCEEDED"), job(ELSEWHERE, "RUNNING")]
    decision = decide(REQUEST, [*others, *reversed(known)])
    assert (decision.action, decision.attempt) == (action, attempt)
    if known:
        assert decision.job == known[-1]


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_another_job_onto_the_same_output_is_named(state: str):
    with pytest.raises(UsageError, match=f"{OTHER.submission_id(1)} .embed, {state}. writes there"):
        decide(REQUEST, [job(REQUEST, "FAILED"), job(OTHER, state)])


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0, "succeeded"),
        ({"status": "FAILED", "driver_exit_code": 2}, 2, "failed with exit code 2"),
        ({"status": "FAILED", "driver_exit_code": -9}, 137, "failed with exit code -9"),
        ({"status": "FAILED", "driver_exit_code": 127}, 127, "--python"),
        ({"status": "FAILED", "driver_exit_code": 1, "message": "No module named 'ray'"}, 1, "--python"),
        ({"status": "FAILED", "message": "runtime_env\nsetup failed"}, 1, "command started: runtime_env setup failed"),
        ({"status": "STOPPED"}, 1, "was stopped; submit the same again to continue"),
    ],
)
def test_how_a_job_ended(changes: dict[str, object], code: int, said: str):
    record = job(REQUEST, str(changes["status"]), **changes)
    assert record.code() == code
    assert said in record.ending()


def test_jobs_of_others_are_none_of_ours():
    assert job_record(SimpleNamespace(submission_id="raysubmit_1", metadata=None)) is None
    assert job_record(SimpleNamespace(submission_id="raysubmit_1", metadata={"ccp_ray.verb": "x"})) is None
    assert job_record(SimpleNamespace(submission_id=None, metadata=REQUEST.metadata(1))) is None
