"""ccp-ray verify URI: re-hash every file of an artifact, and of those it was made from. Needs no Ray.

A folder of artifacts (what a pipeline wrote) is verified artifact by artifact.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.artifact import MANIFEST, Artifact, find_artifact, open_artifact, verify_artifact
from ccp_ray.documents import find_documents, fingerprint
from ccp_ray.errors import StoreError
from ccp_ray.outputs import outputs
from ccp_ray.storage import open_store
from jobs.command import AsJson, main, print_json, reported

_SHOWN = 10


def verify(
    uri: str, as_json: AsJson = False, inputs: Annotated[bool, typer.Option(help="Also its inputs.")] = False
) -> None:
    """Check every file of an artifact against its checksum."""
    with reported():
        artifacts = find_artifacts(uri)
        problems = [problem for artifact in artifacts for problem in verify_artifact(artifact)]
        if inputs:
            problems += [problem for artifact in artifacts for problem in check_inputs(artifact)]
        if as_json:
            found = [{"uri": a.uri, "kind": a.kind, "fingerprint": a.fingerprint} for a in artifacts]
            files = sum(len(artifact.files) for artifact in artifacts)
            print_json({"artifact": found[0], "artifacts": found, "files": files, "problems": problems})
        if problems:
            more = f"; and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
            raise StoreError("; ".join(problems[:_SHOWN]) + more)
    if not as_json:
        for artifact in artifacts:
            size = sum(record.bytes for record in artifact.files)
            print(
                f"{artifact.kind} {artifact.fingerprint[:12]}: {len(artifact.files)} files, {size:,} bytes, all sound"
            )


def find_artifacts(uri: str) -> list[Artifact]:
    """The finished artifact at a URI, else all below it. Raises UsageError where there is none."""
    artifact = find_artifact(uri)
    if artifact is not None:
        return [artifact]
    below = [place for place in outputs(open_store(uri)) if open_store(place).size(MANIFEST) is not None]
    return [open_artifact(place) for place in below or [uri]]


def check_inputs(artifact: Artifact) -> list[str]:
    """What is wrong with the inputs, as far as they are artifacts that are still there."""
    problems = []
    for ref in artifact.inputs:
        source = find_artifact(ref.uri) if "://" not in ref.uri or ref.uri.startswith("s3://") else None
        if source is None:
            continue
        now = _fingerprint(source, ref.role)
        if now is not None and now != ref.fingerprint:
            problems.append(f"{ref.uri}: the {ref.role} changed since (fingerprint {now[:12]}…)")
        else:
            problems += verify_artifact(source)
    return problems


def _fingerprint(source: Artifact, role: str) -> str | None:
    """As the job took it when it read this input; None where that would mean loading a benchmark."""
    if role == "documents":
        return fingerprint(find_documents([source.uri]))
    return None if role.startswith("data.") else source.fingerprint


if __name__ == "__main__":
    main(verify)
