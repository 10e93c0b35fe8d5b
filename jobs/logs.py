"""ccp-ray logs JOB [--follow] --address URL: what a submitted job has written; --follow until it is over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from ccp_ray.errors import redacted
from ccp_ray.job_client import JobClient, UnreachableError
from ccp_ray.job_logs import LogFollower
from ccp_ray.job_records import JobRecord
from ccp_ray.progress import say
from jobs.command import AsJson, main, print_json, reported

Dashboard = Annotated[
    str | None,
    typer.Option(help="The cluster's dashboard, http://HEAD:8265; without it RAY_API_SERVER_ADDRESS or RAY_ADDRESS."),
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as `submit` and `jobs` print it.")]


def logs(
    job: Job,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until the job is over; exit code is the job's.")
    ] = False,
    address: Dashboard = None,
    as_json: AsJson = False,
) -> None:
    """Print what a submitted job has written."""
    with reported():
        client = JobClient(address)
        if follow:
            follower = LogFollower(client, job, log_writer(as_json), lambda text: say(f"ccp-ray: {text}"))
            record = follow_job(client, job, follower)
            say(f"ccp-ray: {record.ending()}")
        else:
            record = client.record(job)
            text = client.logs(job)
    if not follow:
        if as_json:
            print_json({"job": record.told(), "log": text})
        else:
            sys.stdout.write(text)
        return
    if as_json:
        print_json({"job": record.told()})
    raise typer.Exit(record.code())


def log_writer(as_json: bool) -> Callable[[str], None]:
    """Shows a log on standard output, or with --json on standard error."""
    screen = sys.stderr if as_json else sys.stdout

    def write(text: str) -> None:
        screen.write(text)
        screen.flush()

    return write


def follow_job(client: JobClient, job: str, follower: LogFollower) -> JobRecord:
    """Show a job's log until it is over. Ctrl-C ends this program and not the job, and says how to go on."""
    try:
        return follower.follow()
    except UnreachableError as error:
        raise UnreachableError(f"{error}. The job may go on; {how_to_go_on(client, job)}") from None
    except KeyboardInterrupt:
        say(f"\nccp-ray: {job} goes on; {how_to_go_on(client, job)}")
        raise typer.Exit(130) from None


def how_to_go_on(client: JobClient, job: str) -> str:
    """The commands for a job that runs."""
    where = f"--address {redacted(client.url)}"
    return f"follow it with: ccp-ray logs {job} --follow {where}; end it with: ccp-ray stop {job} {where}"


if __name__ == "__main__":
    main(logs)
