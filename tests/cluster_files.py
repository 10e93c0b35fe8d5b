"""What tests of the folder cluster/ share: its files, the image as its Dockerfile describes it, and commands parsed."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from jobs.cli import VERBS
from jobs.command import build_app

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "cluster"
_APP: Any = typer.main.get_command(build_app(*VERBS))
# Names of what must never stand in a file with its value.
SECRET = re.compile(r"secret|token|password|access_key", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, continuation lines joined."""

    word: str
    rest: str


@dataclass(frozen=True)
class Stage:
    """One stage of a Dockerfile."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def of(self, word: str) -> list[str]:
        return [each.rest for each in self.instructions if each.word == word]


def dockerfile() -> dict[str, Stage]:
    """The stages of cluster/Dockerfile in their order."""
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    instructions = [
        Instruction(word.upper(), " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]
    starts = [number for number, each in enumerate(instructions) if each.word == "FROM"]
    stages = {}
    for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True):
        base, _, name = instructions[start].rest.partition(" AS ")
        stages[name] = Stage(name, base, tuple(instructions[start + 1 : end]))
    return stages


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def pinned(package: str) -> str:
    """The version of a package in constraints.txt."""
    found = re.findall(rf"^{re.escape(package)}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(found) == 1, (package, found)
    return found[0]


def version() -> str:
    """Ours, as pyproject.toml has it."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def images() -> set[str]:
    """The images that cluster/Dockerfile makes, by the names that its first lines give them."""
    return {f"ccp-ray:{version()}-{target}" for target in ("cpu", "gpu")}


def verbs() -> set[str]:
    """The verbs of `ccp-ray`."""
    return set(_APP.commands)


def parsed(command: str) -> tuple[str, dict[str, Any]]:
    """The verb and the options of a `ccp-ray …` command line, as the program itself reads them; nothing is run.

    Raises LookupError for a verb that does not exist, typer's error for an option that does not or is missing.
    """
    program, verb, *arguments = shlex.split(command)
    assert program.rpartition("/")[2] == "ccp-ray", command
    if verb not in _APP.commands:
        raise LookupError(f"no verb {verb!r} in {command!r}")
    with _APP.commands[verb].make_context(verb, arguments) as context:
        return verb, context.params
