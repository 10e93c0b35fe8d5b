"""python -m jobs.fetch_data --output DIR [--from DIR]: the real text that `novels_cpu` and the Tatoeba benchmark read.

Without --from it downloads LASER's Tatoeba test files (200 files, 9 MB) from their public repository at a pinned
revision. The documents (novels and encyclopaedia articles, cut into chapters) have no public home in that form: copy
them with --from from a folder that holds documents/ and tatoeba/, or bring your own as JSON lines.

Every file is checked against `data_checksums.json` beside this module before it appears under DIR, whole. Files that
are there already are checked and kept, so a run that was cut off goes on where it stopped. What lies in DIR afterwards
is listed in DIR/checksums.json.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from ccp_ray.errors import DataError, UsageError
from ccp_ray.progress import Meter
from ccp_ray.storage import Store, expand, open_store
from jobs.command import AsJson, Output, main, reported

_TABLE = Path(__file__).with_name("data_checksums.json")
_TRIES, _TIMEOUT_S, _AT_ONCE = 3, 60, 8
SUMS = "checksums.json"

Read = Callable[[str], bytes]


def published() -> dict[str, dict[str, Any]]:
    """By folder: {"about", "url" or None, "files": {name: sha256}}."""
    table: dict[str, dict[str, Any]] = json.loads(_TABLE.read_text())
    return table


def download(output: str, url: str | None = None) -> dict[str, int]:
    """Download what has a public home. Returns files by folder. Raises DataError, StoreError.

    `url` replaces the pinned address of the Tatoeba files; the checksums stay.
    """
    tatoeba = published()["tatoeba"]
    base = url or str(tatoeba["url"])
    if not base.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise UsageError(f"{base}: expected an https:// address")
    base = base.rstrip("/") + "/"
    wanted = {f"tatoeba/{name}": sha256 for name, sha256 in tatoeba["files"].items()}
    return _collect(open_store(output), wanted, lambda key: _get(base + urllib.parse.quote(key.partition("/")[2])))


def copy(source: str, output: str) -> dict[str, int]:
    """Copy documents*/ and tatoeba/ from a folder or URI. Returns files by folder. Raises UsageError, DataError.

    A file that the checksums know must equal it; others (your own text) are copied as they are.
    """
    folders = published()
    origin = open_store(source)
    wanted: dict[str, str | None] = {}
    for folder, entry in folders.items():
        for uri in expand(origin.uri(folder)):
            key = uri.removeprefix(origin.root).lstrip("/")
            wanted[key] = entry["files"].get(key.partition("/")[2])
    if not wanted:
        raise UsageError(f"{source}: holds none of {', '.join(f'{name}/' for name in folders)}")
    if origin.root == open_store(output).root:
        raise UsageError(f"{output}: --from and --output are the same folder")
    return _collect(open_store(output), wanted, origin.read)


def _collect(store: Store, wanted: dict[str, Any], read: Read) -> dict[str, int]:
    """Put every wanted file (key -> sha256 or None) into the store, then the list of all."""

    def one(item: tuple[str, str | None]) -> tuple[str, str]:
        key, sha256 = item
        found = hashlib.sha256(store.read(key)).hexdigest() if store.size(key) is not None else None
        if found is not None and found == sha256:
            return key, found
        data = read(key)
        digest = hashlib.sha256(data).hexdigest()
        if sha256 is not None and digest != sha256:
            raise DataError(
                f"{key}: checksum does not match (sha256 {digest[:12]}…, expected {sha256[:12]}…); this is another "
                "revision or a damaged file, and was not kept"
            )
        if digest != found:
            store.write(key, data)
        return key, digest

    with Meter("data", total=len(wanted), unit="files") as meter, ThreadPoolExecutor(_AT_ONCE) as pool:
        sums = dict(_counted(pool.map(one, sorted(wanted.items())), meter))
    try:
        earlier = json.loads(store.read(SUMS))
    except FileNotFoundError:
        earlier = {}
    store.write(SUMS, json.dumps(earlier | sums, indent=1, sort_keys=True).encode() + b"\n")
    folders = [key.partition("/")[0] for key in sums]
    return {folder: folders.count(folder) for folder in sorted(set(folders))}


def _counted(results: Iterator[tuple[str, str]], meter: Meter) -> Iterator[tuple[str, str]]:
    for result in results:
        meter.update()
        yield result


def _get(url: str) -> bytes:
    """The body at an address; three tries. Raises DataError that names it."""
    for _ in range(_TRIES):
        body, reason, again = _request(url)
        if body is not None:
            return body
        if not again:
            break
    raise DataError(f"{url}: cannot be downloaded ({reason}); check the network, or take a copy with --from DIR")


def _request(url: str) -> tuple[bytes | None, str, bool]:
    """The body, or why there is none and whether another try may help."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the scheme is checked
            return answer.read(), "", False
    except urllib.error.HTTPError as error:
        return None, f"HTTP status {error.code}", error.code >= 500
    except (http.client.HTTPException, OSError) as error:
        return None, str(getattr(error, "reason", error)) or type(error).__name__, True


def fetch_data(
    output: Output,
    source: Annotated[
        str | None, typer.Option("--from", help="Folder or URI with documents/ and tatoeba/ to copy instead.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Another address of the Tatoeba files (a mirror); the checksums stay.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the real text: Tatoeba by download; the documents only as a copy (--from), for they have no public home."""
    with reported():
        if source and url:
            raise UsageError("--from and --url exclude each other")
        counts = copy(source, output) if source else download(output, url)
    if as_json:
        print(json.dumps({"output": output, "files": counts}))
        return
    for folder, count in counts.items():
        print(f"{output.rstrip('/')}/{folder}: {count} files, checked")


if __name__ == "__main__":
    main(fetch_data)
