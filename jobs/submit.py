"""ccp-ray submit VERB ARGUMENTS… --address http://HEAD:8265: run a verb as a job of a cluster, and follow its log.

The code travels with the job, the job runs on the head with `--address auto`, and what it makes is in the store: this
machine may go. Submitting the same again attaches to the job that runs, says that it is done, or continues it.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import psutil
import typer

from ccp_ray.artifact import find_artifact
from ccp_ray.cluster_room import Need, Room
from ccp_ray.errors import CcpError, UsageError, redacted
from ccp_ray.job_client import JobClient, withheld
from ccp_ray.job_logs import LogFollower
from ccp_ray.job_package import Package, package
from ccp_ray.job_records import Decision, JobRecord, decide
from ccp_ray.progress import say
from jobs.command import AsJson, headline, main, print_json, reported
from jobs.logs import Dashboard, follow_job, how_to_go_on, log_writer
from jobs.submittable import Asked, read_command
from jobs.submitted_paths import check_paths

_USAGE_AGE_S = 12.0  # Ray's report of what is in use may be so old

Command = Annotated[
    list[str],
    typer.Argument(metavar="VERB ARGUMENTS…", help="A verb with its own arguments and options: ccp-ray VERB --help."),
]
Plan = Annotated[bool, typer.Option("--plan", help="Say what it needs and what the cluster has; start nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Start it though resources are missing: it waits for them there.")]
Detach = Annotated[bool, typer.Option("--detach", "--no-follow", help="Leave once it is submitted.")]
Again = Annotated[bool, typer.Option("--again", help="Run it although the same succeeded before.")]
Python = Annotated[str, typer.Option(help="The head's Python that has Ray and these packages.")]


def submit(
    command: Command,
    address: Dashboard = None,
    plan: Plan = False,
    wait: Wait = False,
    detach: Detach = False,
    again: Again = False,
    python: Python = "python",
    as_json: AsJson = False,
) -> None:
    """Run a verb as a job of a Ray cluster and follow its log; ends with the job's exit code.

    The checkout travels with it (without what .gitignore leaves out), credentials never do: nodes have their own.
    """
    with reported():
        asked = read_command(command[0], command[1:])
        code = package()
        code = package(extra=asked.extra_files(code))
        notes = check_paths(asked, code)
        code.check()
        submission = Submission(JobClient(address), asked, code, python, as_json)
        submission.check(notes)
        if plan:
            submission.show_plan()
            return
        record = submission.carry_out(wait=wait, detach=detach, again=again)
        if as_json:
            submission.show(record)
    raise typer.Exit(record.code() if record.over else 0)


class Submission:
    """One request to one cluster."""

    def __init__(self, client: JobClient, asked: Asked, code: Package, python: str, as_json: bool) -> None:
        self.client, self.asked, self.code, self.python, self.as_json = client, asked, code, python, as_json
        self.request = asked.request()
        self.measured: dict[str, float] = {}
        self.versions = ""

    def check(self, notes: list[str]) -> None:
        """Versions, and what there is to know of paths and the store's address."""
        self.versions = self.client.check_versions()
        kept = withheld(self.client.here)
        if kept:
            notes = [
                *notes,
                f"{', '.join(kept)} stays here (this machine's own, or with a password): nodes have theirs",
            ]
        if self.code.secretive:
            notes = [*notes, f"{', '.join(self.code.secretive)} may hold credentials and does not go along"]
        for note in notes:
            say(f"ccp-ray: {note}")

    def carry_out(self, *, wait: bool, detach: bool, again: bool) -> JobRecord:
        """Start it, attach to it, or say that it is done; follow it unless told otherwise. Returns how it stands."""
        decision = decide(self.request, self.client.records())
        job, attempt = decision.job, decision.attempt
        if decision.action == "attach" and job is not None:
            say(f"ccp-ray: {job.id} is {job.state} already: attached, nothing new is started")
            return self._followed(job.id, detach)
        if decision.action == "done" and job is not None:
            if not again and self._still_there(job):
                return job
            attempt += 1
        self._check_room(wait)
        return self._followed(self._start(attempt, decision), detach)

    def _start(self, attempt: int, decision: Decision) -> str:
        say(f"ccp-ray: {self.code}")
        entrypoint = self.asked.entrypoint(self.code, self.python)
        job = self.client.submit(self.request, attempt, entrypoint, self.code)
        self.measured["submitted_s"] = _since_start()
        told = f", attempt {attempt}" if attempt > 1 else ""
        told += f" ({decision.job.id} is {decision.job.state})" if attempt > 1 and decision.job else ""
        say(f"ccp-ray: submitted {job}{told} to {redacted(self.client.url)}; {how_to_go_on(self.client, job)}")
        return job

    def _followed(self, job: str, detach: bool) -> JobRecord:
        if detach:
            return self.client.record(job)
        follower = LogFollower(self.client, job, log_writer(self.as_json), lambda text: say(f"ccp-ray: {text}"))
        record = follow_job(self.client, job, follower)
        now = time.monotonic()
        for name, at in (("first_line_s", follower.first_line), ("first_own_line_s", follower.first_own_line)):
            if at is not None:
                self.measured[name] = _since_start() - (now - at)
        say(f"ccp-ray: {record.ending()}")
        return record

    def _still_there(self, job: JobRecord) -> bool:
        """Whether what the job made is, as far as this machine can see. Says what it finds."""
        place = self.asked.artifact()
        if place is None:
            say(f"ccp-ray: {job.id} succeeded before; --again runs it once more")
            return True
        try:
            artifact = find_artifact(place)
        except CcpError as error:
            say(f"ccp-ray: {job.id} succeeded before; its output cannot be seen from here ({error}); see --again")
            return True
        if artifact is None:
            say(f"ccp-ray: {job.id} succeeded before, but nothing is at {place} as seen from here: it is run again")
            return False
        say(f"ccp-ray: {job.id} succeeded before; --again runs it once more")
        if not self.as_json:
            print(f"{artifact.kind} {artifact.fingerprint[:12]} at {artifact.uri}")
        return True

    def _check_room(self, wait: bool) -> None:
        """Raises UsageError where there are too few resources and nobody wants to wait."""
        give_up = time.monotonic() + _USAGE_AGE_S
        while True:
            room = self.client.room()
            need = self.asked.need(room)
            verdict = room.verdict(need)
            if verdict == "fits":
                return
            if wait:
                say(f"ccp-ray: {_shortage(need, room)}; the job waits for them there")
                return
            if verdict == "small" or time.monotonic() > give_up:
                raise UsageError(
                    f"{self.client.url}: {_shortage(need, room)}; add nodes or ask for less, or start it with "
                    "--wait: the job then waits for them there"
                )
            time.sleep(1.0)

    def show_plan(self) -> None:
        """What it needs, what is there, and what a submission would do."""
        room = self.client.room()
        need = self.asked.need(room)
        verdict, decision = room.verdict(need), decide(self.request, self.client.records())
        if self.as_json:
            state = {"action": decision.action, "attempt": decision.attempt}
            job = self.request.submission_id(decision.attempt)
            figures: dict[str, Any] = {"job": job, **state, "verdict": verdict, "need": need.model_dump()}
            print_json({**figures, "room": room.model_dump(), "bytes": self.code.bytes, "versions": self.versions})
            return
        words = {"fits": "there is room for it now", "busy": _shortage(need, room), "small": _shortage(need, room)}
        course = {"attach": "runs already", "done": "is done", "start": f"would be attempt {decision.attempt}"}
        print(f"needs    {need}")
        print(f"cluster  {room}; {self.versions}")
        print(f"verdict  {words[verdict]}")
        print(f"package  {self.code}")
        print(f"job      {self.request.submission_id(decision.attempt)}, {course[decision.action]}")
        print(f"command  {self.asked.entrypoint(self.code, self.python)}")

    def show(self, record: JobRecord) -> None:
        """All that is known, for a program; `result` is null where there is none or this machine cannot see it."""
        place, result = self.asked.artifact(), None
        if record.ended_well and place:
            try:
                artifact = find_artifact(place)
                result = headline(artifact) if artifact else None
            except CcpError as error:
                say(f"ccp-ray: the job's output cannot be seen from here ({error})")
        print_json({"job": record.told(), "result": result, "measured": self.measured})


def _shortage(need: Need, room: Room) -> str:
    fit, now = room.holds(need), room.holds(need, now=True)
    if fit < need.workers:
        return f"needs {need}, but the cluster has {room}: room for {fit}"
    return f"needs {need}, but others use them: {room}, room for {now} at the moment"


def _since_start() -> float:
    """Seconds since this process was started: imports are part of what a person waits for."""
    return time.time() - float(psutil.Process().create_time())


if __name__ == "__main__":
    main(submit)
