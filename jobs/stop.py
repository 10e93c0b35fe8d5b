"""ccp-ray stop JOB --address URL: end a submitted job, and wait until it has ended. Its output stays."""

from __future__ import annotations

from ccp_ray.job_client import JobClient
from jobs.command import AsJson, main, print_json, reported
from jobs.logs import Dashboard, Job


def stop(job: Job, address: Dashboard = None, as_json: AsJson = False) -> None:
    """End a submitted job; one that is over stays as it is. The same `submit` continues it."""
    with reported():
        record, ended = JobClient(address).stop(job)
    if as_json:
        print_json({"job": record.told(), "was_running": ended})
    elif ended:
        print(f"{record.id}: {record.state}; submit the same again to continue")
    else:
        print(f"{record.id}: was over already, {record.state}")


if __name__ == "__main__":
    main(stop)
