"""ccp-ray verify URI: re-hash every file of an artifact, and of those it was made from. Needs no Ray."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.artifact import find_artifact, open_artifact, verify_artifact
from ccp_ray.errors import StoreError
from jobs.command import AsJson, main, print_json, reported


def verify(
    uri: str, as_json: AsJson = False, inputs: Annotated[bool, typer.Option(help="Also its inputs.")] = False
) -> None:
    """Check every file of an artifact against its recorded checksum."""
    with reported():
        artifact = open_artifact(uri)
        problems = verify_artifact(artifact)
        changed = []
        for ref in artifact.inputs if inputs else ():
            source = find_artifact(ref.uri) if not ref.uri.startswith("package://") else None
            if source is not None and source.fingerprint != ref.fingerprint:
                changed.append(f"{ref.uri}: the {ref.role} changed since (fingerprint {source.fingerprint[:12]}…)")
            elif source is not None:
                problems += verify_artifact(source)
        problems += changed
        if as_json:
            print_json({"artifact": artifact.uri, "files": len(artifact.files), "problems": problems})
        if problems:
            raise StoreError("; ".join(problems))
        if not as_json:
            size = sum(record.bytes for record in artifact.files)
            print(
                f"{artifact.kind} {artifact.fingerprint[:12]}: {len(artifact.files)} files, {size:,} bytes, all sound"
            )


if __name__ == "__main__":
    main(verify)
