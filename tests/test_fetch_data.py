"""fetch_data: checked before it is kept, continued after a cut, from a server on loopback or from a folder."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from eltec import commit, novel
from s3_servers import free_port
from typer.testing import CliRunner

from ccp_ray.errors import DataError, UsageError
from ccp_ray.storage import open_store
from jobs import fetch_data as module
from jobs import novels
from jobs.fetch_data import copy, download, fetch_novels, published

FILES = {
    f"tatoeba.{code}-eng.{side}": f"{code} {side}\n".encode() * 50 for code in ("deu", "fra") for side in (code, "eng")
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def small_table(monkeypatch):
    """A table of four Tatoeba files and one document in place of the real one."""
    tables = {
        "tatoeba": {"about": "", "url": "https://nowhere.invalid/", "files": {k: digest(v) for k, v in FILES.items()}},
        "documents": {"about": "", "url": None, "files": {"de.jsonl.gz": digest(b"novel")}},
    }
    monkeypatch.setattr(module, "published", lambda: tables)


class Handler(http.server.BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, list[tuple[int, bytes]]]] = {}
    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self):
        name = self.path.removeprefix("/v1/")
        type(self).asked[name] += 1
        planned = self.answers.get(name)
        status, body = planned.pop(0) if planned else (200 if name in FILES else 404, FILES.get(name, b""))
        self.send_response(abs(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if status < 0 else body)  # negative: cut in the middle
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.answers.clear()
    Handler.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()


@pytest.mark.usefixtures("small_table")
def test_download(server, root_uri):
    assert download(root_uri, server) == {"tatoeba": 4}
    store = open_store(root_uri)
    assert {info.key for info in store.list()} == {"checksums.json", *(f"tatoeba/{name}" for name in FILES)}
    for name, data in FILES.items():
        assert store.read(f"tatoeba/{name}") == data
    sums = json.loads(store.read("checksums.json"))
    assert sums == {f"tatoeba/{name}": digest(data) for name, data in FILES.items()}
    store.write("tatoeba/tatoeba.deu-eng.deu", b"damaged")
    store.delete("tatoeba/tatoeba.fra-eng.fra")
    Handler.asked.clear()
    assert download(root_uri, server) == {"tatoeba": 4}
    assert Handler.asked == {"tatoeba.deu-eng.deu": 1, "tatoeba.fra-eng.fra": 1}  # only what was wrong or missing
    assert store.read("tatoeba/tatoeba.deu-eng.deu") == FILES["tatoeba.deu-eng.deu"]


@pytest.mark.usefixtures("small_table")
def test_passing_failures_of_the_server_are_overcome(server, tmp_path):
    name = "tatoeba.deu-eng.deu"
    Handler.answers[name] = [(503, b""), (-200, FILES[name])]
    assert download(str(tmp_path), server) == {"tatoeba": 4}
    assert Handler.asked[name] == 3


@pytest.mark.usefixtures("small_table")
@pytest.mark.parametrize(
    ("answer", "message", "requests"),
    [
        ((200, b"tampered"), r"tatoeba/tatoeba\.deu-eng\.deu: checksum does not match", 1),
        ((404, b""), r"/v1/tatoeba\.deu-eng\.deu: cannot be downloaded \(HTTP status 404\)", 1),
        ((500, b""), r"cannot be downloaded \(HTTP status 500\); check the network, or take a copy with --from", 3),
        ((-200, b"x" * 900), r"cannot be downloaded \(IncompleteRead", 3),
    ],
)
def test_a_file_that_cannot_be_trusted_is_not_kept(server, tmp_path, answer, message, requests):
    Handler.answers["tatoeba.deu-eng.deu"] = [answer] * 5
    with pytest.raises(DataError, match=message):
        download(str(tmp_path), server)
    assert Handler.asked["tatoeba.deu-eng.deu"] == requests
    assert not (tmp_path / "tatoeba" / "tatoeba.deu-eng.deu").exists()
    assert not (tmp_path / "checksums.json").exists()


@pytest.mark.usefixtures("small_table")
def test_no_network(tmp_path):
    with pytest.raises(DataError, match=r"Connection refused.*--from DIR"):
        download(str(tmp_path), f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UsageError, match="expected an https:// address"):
        download(str(tmp_path), "file:///etc")


@pytest.mark.usefixtures("small_table")
def test_copy(tmp_path):
    source, output = tmp_path / "source", tmp_path / "output"
    for key, data in {
        "documents/de.jsonl.gz": b"novel",
        "documents/mine.jsonl": b"my text",
        "other/x": b"not this",
    }.items():
        (source / key).parent.mkdir(parents=True, exist_ok=True)
        (source / key).write_bytes(data)
    assert copy(str(source), str(output)) == {"documents": 2}
    assert sorted(os.listdir(output)) == ["checksums.json", "documents"]
    assert (output / "documents" / "de.jsonl.gz").read_bytes() == b"novel"
    assert copy(str(source), str(output)) == {"documents": 2}
    (source / "documents" / "de.jsonl.gz").write_bytes(b"altered")
    (output / "documents" / "de.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"documents/de\.jsonl\.gz: checksum does not match"):
        copy(str(source), str(output))
    assert not (output / "documents" / "de.jsonl.gz").exists()
    with pytest.raises(UsageError, match=r"holds none of tatoeba/, documents/"):
        copy(str(tmp_path / "nothing"), str(output))
    with pytest.raises(UsageError, match="the same folder"):
        copy(str(source), str(source))


@pytest.mark.usefixtures("small_table")
def test_the_command(tmp_path, server):
    import typer

    app = typer.Typer()
    app.command()(module.fetch_data)
    tatoeba = ["--output", str(tmp_path), "--url", server, "--only", "tatoeba"]
    done = CliRunner().invoke(app, [*tatoeba, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1]) == {"output": str(tmp_path), "files": {"tatoeba": 4}}
    assert CliRunner().invoke(app, ["--output", str(tmp_path), "--url", server, "--from", "x"]).exit_code == 2
    assert CliRunner().invoke(app, [*tatoeba, "--languages", "de"]).exit_code == 2
    assert CliRunner().invoke(app, [*tatoeba[:-1], "novels"]).exit_code == 2
    assert CliRunner().invoke(app, ["--output", str(tmp_path), "--from", str(tmp_path / "none")]).exit_code == 2


def test_the_published_table_is_pinned():
    tables = published()
    assert len(tables["tatoeba"]["files"]) == 200
    assert tables["tatoeba"]["url"].startswith("https://")
    assert any(len(part) == 40 for part in tables["tatoeba"]["url"].split("/"))  # a full commit, no branch
    assert all(len(sha256) == 64 for table in tables.values() for sha256 in table["files"].values())


def test_the_real_text_is_the_published_one(data_folder, tmp_path):
    counts = copy(str(data_folder), str(tmp_path / "copy"))
    assert counts["tatoeba"] >= 200
    assert counts["documents"] == len(published()["documents"]["files"])


@pytest.fixture
def home(tmp_path, monkeypatch, small_table):
    """German and French novels in repositories of our own in place of the pinned ones: (base, output with Tatoeba)."""
    table = {}
    for lang, repository in (("de", "ELTeC-deu"), ("fr", "ELTeC-fra")):
        text = novel("Buch", ["Es war kalt.", FILES["tatoeba.deu-eng.deu"].decode().splitlines()[0]])
        pinned = commit(tmp_path / "home" / repository, {"level1/A1.xml": text, "level1/A2.xml": text})
        table[lang] = novels.Collection(repository=repository, commit=pinned, train=["A1"], dev=["A2"])
    monkeypatch.setattr(novels, "collections", lambda chosen=None: {x: table[x] for x in chosen or table})
    for name, data in FILES.items():
        open_store(str(tmp_path / "output")).write(f"tatoeba/{name}", data)
    return str(tmp_path / "home"), tmp_path / "output"


def text_of(file) -> list[str]:
    return [json.loads(line)["text"] for line in gzip.decompress(file.read_bytes()).decode().splitlines()]


def test_novels(home):
    base, output = home
    assert fetch_novels(str(output), None, base) == {"documents": 2}
    german, french = (output / "documents" / f"{lang}.jsonl.gz" for lang in ("de", "fr"))
    assert text_of(german) == ["Es war kalt."] * 2  # the Tatoeba sentence of its language is left out
    assert text_of(french) == ["Es war kalt.\ndeu deu"] * 2
    sums = json.loads((output / "checksums.json").read_text())
    assert sums == {f"documents/{x}.jsonl.gz": digest(f.read_bytes()) for x, f in (("de", german), ("fr", french))}
    made = json.loads((output / "novels.json").read_text())
    assert made["documents/de.jsonl.gz"]["commit"] == novels.collections()["de"].commit


def test_novels_go_on_where_they_stopped(home, monkeypatch):
    """Cut off after one language, and once between a file and its entry: what is there is kept, the rest is fetched."""
    base, output = home
    repository = Path(base, "ELTeC-fra").rename(Path(base, "away"))
    with pytest.raises(DataError, match=r"ELTeC-fra: commit [0-9a-f]{40} cannot be read"):
        fetch_novels(str(output), None, base)
    repository.rename(Path(base, "ELTeC-fra"))
    assert os.listdir(output / "documents") == ["de.jsonl.gz"]
    fetched, original = [], novels.documents
    monkeypatch.setattr(novels, "documents", lambda lang, *rest: fetched.append(lang) or original(lang, *rest))
    fetch_novels(str(output), None, base)
    assert fetched == ["fr"]
    (output / "checksums.json").unlink()
    assert fetch_novels(str(output), None, base) == {"documents": 2}
    assert fetched == ["fr"]
    (output / "documents" / "de.jsonl.gz").unlink()
    fetch_novels(str(output), None, base)
    assert fetched == ["fr", "de"]


def test_another_recipe_replaces_and_nothing_else_is_overwritten(home, monkeypatch):
    base, output = home
    file = output / "documents" / "de.jsonl.gz"
    fetch_novels(str(output), ["de"], base)
    monkeypatch.setattr(novels, "_RULES", novels._RULES + 1)
    made = json.loads((output / "novels.json").read_text())
    fetch_novels(str(output), ["de"], base)
    assert json.loads((output / "novels.json").read_text()) != made
    file.write_bytes(b"my own text")
    with pytest.raises(UsageError, match=r"documents/de\.jsonl\.gz: is there and is not what this command wrote"):
        fetch_novels(str(output), ["de"], base)
    assert file.read_bytes() == b"my own text"
    file.write_bytes(b"novel")  # the published file, as --from copies it
    fetch_novels(str(output), ["de"], base)
    assert file.read_bytes() == b"novel"
    (output / "tatoeba" / "tatoeba.deu-eng.deu").unlink()
    with pytest.raises(UsageError, match="tatoeba: is not complete; download it first"):
        fetch_novels(str(output), ["de"], base)


def test_the_command_fetches_both(home, server, tmp_path):
    import typer

    base, _ = home
    app = typer.Typer()
    app.command()(module.fetch_data)
    fresh = tmp_path / "fresh"
    arguments = ["--output", str(fresh), "--url", server, "--novels-url", base, "--languages", "de", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1])["files"] == {"tatoeba": 4, "documents": 1}
    assert sorted(os.listdir(fresh)) == ["checksums.json", "documents", "novels.json", "tatoeba"]
    assert len(json.loads((fresh / "checksums.json").read_text())) == 5


def test_an_unknown_language_is_said_before_anything_is_downloaded(server, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(module.fetch_data)
    done = CliRunner().invoke(app, ["--output", str(tmp_path), "--url", server, "--languages", "de,it"])
    assert done.exit_code == 2
    assert "no novels are pinned for it" in done.stderr
    assert not Handler.asked
    assert os.listdir(tmp_path) == []
