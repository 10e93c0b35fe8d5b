"""What every verb shares: its options, how it ends, and what it prints.

Results go to standard output (with --json one JSON object on its last line), everything else to standard error.
A `CcpError` becomes one line and its exit code; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ccp_ray.artifact import Artifact
from ccp_ray.errors import CcpError, DataError, StoreError, UsageError
from ccp_ray.log_fields import VARIABLE, log_fields
from ccp_ray.node_probe import check_nodes
from ccp_ray.progress import say
from ccp_ray.session import ray_session, ray_session_at_need
from ccp_ray.storage import storage_full
from jobs.plan import Plan

Output = Annotated[str, typer.Option("--output", "-o", help="Folder or s3:// URI of the artifact to write.")]
TrainingRun = Annotated[
    str, typer.Argument(metavar="RUN", help="The --output of `pretrain` or `finetune`, finished or not.")
]
ConfigFiles = Annotated[
    list[str] | None, typer.Option("--config", "-c", help="YAML file or URI; repeatable, later ones win.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="key=value, for example bank.size=512; repeatable.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster (auto, host:port, ray://…). Without it a local Ray is started.")
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print counts, bytes, memory and expected time; touch nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Last line of standard output: one JSON object.")]

# Verbs whose arguments are another verb's command line: options that they do not know are passed on.
_PASS_ON = ("submit",)
_PASSING = {"ignore_unknown_options": True, "allow_extra_args": True}


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn a `CcpError` into one line on standard error and the documented exit code."""
    try:
        yield
    except CcpError as error:
        say(f"ccp-ray: error: {error}", level="error")
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        full = storage_full(error)
        if full is None:
            raise
        say(f"ccp-ray: error: {full}", level="error")
        raise typer.Exit(full.exit_code) from None
    except KeyboardInterrupt:
        say("ccp-ray: interrupted; run the same command again to continue", level="warning")
        raise typer.Exit(130) from None


def show_artifact(artifact: Artifact, as_json: bool) -> None:
    """The artifact's headline on standard output."""
    if as_json:
        print_json(headline(artifact))
        return
    print(f"{artifact.kind} {artifact.fingerprint[:12]} at {artifact.uri}")
    for line in _lines(artifact.summary):
        print(f"  {line}")


def _lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """A line a value; a mapping of plain values shares one line, a mapping of those takes one each."""
    for name, value in summary.items():
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
            yield from (f"{name} {key}: {_flat(inner)}" for key, inner in value.items() if isinstance(inner, Mapping))
        elif isinstance(value, Mapping) or not isinstance(value, list):
            yield f"{name}: {_flat(value)}"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items() if not isinstance(inner, list | dict))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run(
    work: Callable[[], Artifact],
    *,
    output: str,
    address: str | None,
    as_json: bool,
    show: Callable[[Artifact, bool], None] = show_artifact,
) -> None:
    """Run a stage in its Ray session and print the artifact. output: the place that it will be written to."""
    with reported():
        with native_noise_aside(), cluster_session(address, output) if address else ray_session_at_need():
            artifact = work()
        show(artifact, as_json)


@contextlib.contextmanager
def cluster_session(address: str, place: str, *, writes: bool = True) -> Iterator[None]:
    """The session of a cluster whose nodes can all work on a place. Raises CcpError, naming those that cannot."""
    with ray_session(address):
        check_nodes(place, writes=writes)
        yield


@contextlib.contextmanager
def native_noise_aside() -> Iterator[None]:
    """Send what native code (Ray's C++ core, gloo) writes to the screen into a file, and what Ray prints to
    standard output too: that is for results. What this program says on standard error stays on screen.

    The file is removed at a good end, and where the error says all there is to know; else it is named.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    screens = {number: os.dup(number) for number in (1, 2)}
    handle, name = tempfile.mkstemp(prefix="ccp-ray-native-", suffix=".log")
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    before = sys.stdout, sys.stderr
    sys.stdout = open(handle, "w", buffering=1)  # noqa: SIM115
    sys.stderr = open(screens[2], "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        yield
    except (UsageError, DataError, StoreError):
        Path(name).unlink()
        raise
    except BaseException:
        if Path(name).stat().st_size:
            say(f"ccp-ray: what Ray's core wrote is in {name}")
        else:
            Path(name).unlink()
        raise
    else:
        Path(name).unlink()
    finally:
        sys.stdout.close()
        sys.stdout, sys.stderr = before
        for number, screen in screens.items():
            os.dup2(screen, number)
            os.close(screen)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(value, ensure_ascii=False))


def headline(artifact: Artifact) -> dict[str, Any]:
    """What --json prints of an artifact."""
    place = {"uri": artifact.uri, "kind": artifact.kind, "fingerprint": artifact.fingerprint}
    return {"artifact": place} | artifact.summary | {"measured": artifact.measured}


def show_plan(make: Callable[[], Plan], as_json: bool) -> None:
    """Print a plan."""
    with reported():
        plan = make()
    if as_json:
        print_json(plan.model_dump())
        return
    width = max(len(name) for name, _ in plan.lines)
    for name, value in plan.lines:
        print(f"{name:<{width}}  {value}")


def build_app(*verbs: Callable[..., None]) -> typer.Typer:
    """One verb as a command of its own, or several as sub-commands."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    for verb in verbs:
        # The first paragraph; typer would cut it at 45 characters in the list of verbs.
        summary = " ".join(inspect.cleandoc(verb.__doc__ or "").partition("\n\n")[0].split())
        settings = _PASSING if verb.__name__ in _PASS_ON else None
        name = verb.__name__.rstrip("_").replace("_", "-")
        app.command(name, short_help=summary, context_settings=settings)(_logged(verb))
    if len(verbs) > 1:
        app.callback()(_options)
    return app


def _logged(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, with its name as the stage of every log line and what it writes as the run."""

    @functools.wraps(verb)
    def logged(**given: Any) -> None:
        output = given.get("output")
        with log_fields(stage=verb.__name__.removesuffix("_command"), **({"run": output} if output else {})):
            verb(**given)

    return logged


def _options(json_logs: Annotated[bool, typer.Option(help=f"As {VARIABLE}=json: log lines are JSON.")] = False) -> None:
    if json_logs:
        os.environ[VARIABLE] = "json"


def main(*verbs: Callable[..., None]) -> None:
    """Run one verb (`python -m jobs.prepare`) or several as sub-commands (`ccp-ray`)."""
    build_app(*verbs)(prog_name="ccp-ray" if len(verbs) > 1 else None)
