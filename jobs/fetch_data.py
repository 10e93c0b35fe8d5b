"""python -m jobs.fetch_data --output DIR [--from DIR]: the real text that `novels_cpu` and the Tatoeba benchmark read.

Without --from it downloads what has a public home, each at a pinned revision:
- tatoeba/: LASER's Tatoeba test files (200 files, 9 MB), each checked against `data_checksums.json`;
- documents/LANG.jsonl.gz: ELTeC's novels in cs de en es fr pl pt ro sl uk, from the commits in `novels.json` (see
  jobs.novels and jobs.pinned). It needs git. The works and their splits are those of the files that --from copies;
  the choice of chapters and the cut are not, so the figures of a run on them are not the README's.

All else comes only as a copy (--from a folder that holds documents/ and tatoeba/): Italian, Hungarian, Russian and
Swedish novels, for no commit of their repositories could be verified; and encyclopaedia articles, manuals, Bibles,
stories and other sources in ar fa fi hi id ja ko nl tr vi zh. Or bring your own text as JSON lines.

Files that are there already are checked and kept, so a run that was cut off goes on where it stopped, and no file of
yours is overwritten by a novel. What lies in DIR afterwards is listed in DIR/checksums.json.
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
from ccp_ray.patterns import expand
from ccp_ray.progress import Meter
from ccp_ray.storage import Store, open_store
from eval.tatoeba import CODES
from jobs import novels
from jobs.command import AsJson, Output, main, reported

_TABLE = Path(__file__).with_name("data_checksums.json")
_TRIES, _TIMEOUT_S, _AT_ONCE = 3, 60, 8
SUMS, RECIPES = "checksums.json", "novels.json"

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
    _remember(store, SUMS, sums)
    folders = [key.partition("/")[0] for key in sums]
    return {folder: folders.count(folder) for folder in sorted(set(folders))}


def fetch_novels(output: str, languages: list[str] | None = None, base: str = novels.BASE) -> dict[str, int]:
    """Write documents/LANG.jsonl.gz for these languages (None: all that are pinned), one after the other.

    Reads the Tatoeba files in `output`, whose sentences are left out. Returns files by folder. Raises UsageError for an
    unknown language or a file that this did not write, DataError, StoreError.
    """
    store, chosen = open_store(output), novels.collections(languages)
    with Meter("novels", total=len(chosen), unit="languages") as meter:
        for lang, collection in chosen.items():
            key, left_out = f"documents/{lang}.jsonl.gz", _test_sentences(store, lang)
            recipe = novels.recipe(lang, collection, left_out)
            if not _kept(store, key, recipe):
                data = novels.documents(lang, collection, base, left_out)
                sha256 = hashlib.sha256(data).hexdigest()
                # In this order: a kill leaves no file, or one that the next run knows as its own.
                store.delete(key)
                _remember(store, RECIPES, {key: {"recipe": recipe, "commit": collection.commit, "sha256": sha256}})
                store.write(key, data)
                _remember(store, SUMS, {key: sha256})
            meter.update()
    return {"documents": len(chosen)}


def _kept(store: Store, key: str, recipe: str) -> bool:
    """Whether the file is there as it should be: made by this recipe, or the published one. Raises UsageError."""
    if store.size(key) is None:
        return False
    sha256 = hashlib.sha256(store.read(key)).hexdigest()
    if sha256 == published()["documents"]["files"].get(key.partition("/")[2]):
        return True
    made = _recorded(store, RECIPES).get(key)
    if made is None or made["sha256"] != sha256:
        raise UsageError(
            f"{store.uri(key)}: is there and is not what this command wrote; move it away, or choose another --output"
        )
    return bool(made["recipe"] == recipe)


def _test_sentences(store: Store, lang: str) -> frozenset[str]:
    """The language's side of every Tatoeba file in the store, line by line."""
    codes = CODES | {"eng": "en"}
    names = [name for name in published()["tatoeba"]["files"] if codes.get(name.rpartition(".")[2]) == lang]
    try:
        files = [store.read(f"tatoeba/{name}").decode() for name in names]
    except FileNotFoundError:
        raise UsageError(f"{store.uri('tatoeba')}: is not complete; download it first") from None
    return frozenset(line.strip() for text in files for line in text.splitlines())


def _recorded(store: Store, key: str) -> dict[str, Any]:
    try:
        recorded: dict[str, Any] = json.loads(store.read(key))
    except FileNotFoundError:
        return {}
    return recorded


def _remember(store: Store, key: str, entries: dict[str, Any]) -> None:
    """Add entries to a JSON object in the store."""
    store.write(key, json.dumps(_recorded(store, key) | entries, indent=1, sort_keys=True).encode() + b"\n")


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
    only: Annotated[str | None, typer.Option(help="tatoeba: without the novels.")] = None,
    languages: Annotated[
        str | None, typer.Option(help="Novels of these languages, for example de,fr; without it all that are pinned.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Another address of the Tatoeba files (a mirror); the checksums stay.")
    ] = None,
    novels_url: Annotated[
        str | None,
        typer.Option(help="Another address or folder above the novels' repositories (a mirror); the commits stay."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the real text: Tatoeba and ELTeC's novels (cs de en es fr pl pt ro sl uk; needs git) from their public
    homes at pinned revisions, or all of it as a copy (--from). Other documents come only with --from.
    """
    with reported():
        if source and (only or languages or url or novels_url):
            raise UsageError("--from goes with none of --only, --languages, --url, --novels-url")
        if only not in (None, "tatoeba"):
            raise UsageError(f"--only {only}: expected tatoeba (the novels need it too: its sentences are left out)")
        if only and (languages or novels_url):
            raise UsageError("--only tatoeba goes with neither --languages nor --novels-url")
        chosen = [lang.strip() for lang in languages.split(",") if lang.strip()] if languages is not None else None
        if source:
            counts = copy(source, output)
        else:
            novels.collections(chosen)  # a language that is not there is said before anything is downloaded
            counts = download(output, url)
            if not only:
                counts |= fetch_novels(output, chosen, novels_url or novels.BASE)
    if as_json:
        print(json.dumps({"output": output, "files": counts}))
        return
    for folder, count in counts.items():
        print(f"{output.rstrip('/')}/{folder}: {count} files, checked")


if __name__ == "__main__":
    main(fetch_data)
