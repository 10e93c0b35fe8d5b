"""A real git repository with small novels of our own, laid out like one of ELTeC's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ENVIRONMENT = {
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
       for what, value in {"NAME": "t", "EMAIL": "t@t", "DATE": "2021-04-09T00:00:00Z"}.items()},
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "init.defaultBranch=main", "-C", str(folder), *arguments]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def novel(title: str, *chapters: list[str]) -> str:
    divisions = "".join(
        f'<div type="chapter"><head>{number}</head>{"".join(f"<p>{text}</p>" for text in chapter)}</div>'
        for number, chapter in enumerate(chapters, 1)
    )
    return (
        '<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><fileDesc><titleStmt>'
        f"<title>{title} : ELTeC edition</title></titleStmt></fileDesc></teiHeader>"
        f"<text><body>{divisions}</body></text></TEI>"
    )


def commit(folder: Path, files: dict[str, str]) -> str:
    """Write these files, commit everything, return the commit's id."""
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-gpg-sign", "--message", "x")
    return git(folder, "rev-parse", "HEAD")
