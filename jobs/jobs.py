"""ccp-ray jobs --address URL: the jobs that were submitted to a cluster since it started."""

from __future__ import annotations

import time

from ccp_ray.errors import redacted
from ccp_ray.job_client import JobClient
from ccp_ray.job_records import JobRecord
from ccp_ray.progress import say
from jobs.columns import columns
from jobs.command import AsJson, main, print_json, reported
from jobs.logs import Dashboard
from jobs.plan import duration


def jobs(address: Dashboard = None, as_json: AsJson = False) -> None:
    """List a cluster's submitted jobs: id, state, verb, output, age and how long each ran."""
    with reported():
        client = JobClient(address)
        records = client.records()
    if as_json:
        print_json({"jobs": [record.told() for record in records]})
        return
    if not records:
        say(f"ccp-ray: no job was submitted to {redacted(client.url)} since it started")
        return
    now = time.time()
    rows = [("JOB", "STATE", "VERB", "STARTED", "RAN", "OUTPUT"), *(_row(record, now) for record in records)]
    for line in columns(rows):
        print(line)


def _row(record: JobRecord, now: float) -> tuple[str, ...]:
    age = f"{duration(max(0.0, now - record.started))} ago" if record.started else ""
    ran = duration(max(0.0, (record.ended or now) - record.started)) if record.started else ""
    return (record.id, record.state, record.verb, age, ran, record.output)


if __name__ == "__main__":
    main(jobs)
