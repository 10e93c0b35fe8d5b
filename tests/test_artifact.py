"""Artifacts: finished or not, the same request or another; content decides the fingerprint and nothing else does."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.artifact import (
    Artifact,
    InputRef,
    Output,
    Request,
    digest_json,
    field_diff,
    find_artifact,
    open_artifact,
    open_output,
    verify_artifact,
)
from ccp_ray.errors import DataError, DriftError, UsageError
from ccp_ray.ledger import Entry, put_bytes
from ccp_ray.storage import LocalStore, Store, open_store


def request(**config) -> Request:
    source = InputRef(role="corpus", uri="s3://b/corpus", fingerprint="f" * 64)
    return Request(kind="embeddings", config={"size": 4, "deep": {"rate": 0.1}} | config, inputs=[source])


def make(uri: str, wanted: Request | None = None, contents=None, **measured) -> Artifact:
    output = open_output(uri, wanted or request())
    assert isinstance(output, Output)
    contents = {"b": b"bb", "a/x": b"x" * 100} if contents is None else contents
    records = [put_bytes(output.store, key, data) for key, data in contents.items()]
    return output.finish(records, {"rows": 3}, measured)


def keys(store: Store) -> list[str]:
    return [info.key for info in store.list()]


def test_a_finished_artifact_is_read_back_and_never_made_again(root_uri):
    made = make(root_uri, seconds=1.5)
    found = open_artifact(root_uri, "embeddings", "corpus")
    assert found == made
    assert found.uri == open_store(root_uri).root
    assert [record.path for record in found.files] == ["a/x", "b"]
    assert found.summary == {"rows": 3}
    assert found.measured == {"seconds": 1.5}
    assert found.provenance["versions"]["python"]
    assert found.input("corpus").fingerprint == "f" * 64
    assert found.ref("embeddings") == InputRef(role="embeddings", uri=found.uri, fingerprint=made.fingerprint)
    assert open_output(root_uri, request()) == made
    assert verify_artifact(found) == []
    assert "uri" not in json.loads(found.store.read("artifact.json"))


def test_the_same_request_continues_unfinished_work(root_uri):
    first = open_output(root_uri, request())
    assert isinstance(first, Output)
    assert first.fresh
    first.ledger.commit("0", Entry(rows=1))
    again = open_output(root_uri, request())
    assert isinstance(again, Output)
    assert not again.fresh
    assert again.ledger.committed() == {"0"}
    with pytest.raises(UsageError, match="is unfinished; run its job again"):
        open_artifact(root_uri)


@pytest.mark.parametrize("root_uri", ["rclone", "moto"], indirect=True)
def test_a_store_that_ignores_conditional_put_is_told_once(root_uri, capsys):
    for place in ("a", "b", "b"):
        open_output(f"{root_uri}/{place}", request())
    told = [line for line in capsys.readouterr().err.splitlines() if "conditional PUT" in line]
    bucket = root_uri.removesuffix("/some/prefix")
    settles = open_store(root_uri).conditional_writes()
    assert [line.partition(": ")[0] for line in told] == ([] if settles else [bucket])


@pytest.mark.parametrize("finished", [True, False])
def test_another_request_is_refused_with_a_diff(root_uri, finished):
    if finished:
        make(root_uri)
    else:
        open_output(root_uri, request())
    before = {info.key: open_store(root_uri).read(info.key) for info in open_store(root_uri).list()}
    other = request(deep={"rate": 0.2}, extra=True)
    other = other.model_copy(update={"inputs": [InputRef(role="corpus", uri="x", fingerprint="0" * 64)]})
    with pytest.raises(DriftError) as caught:
        open_output(root_uri, other)
    text = str(caught.value)
    assert ("holds another artifact" if finished else "holds another unfinished job") in text
    assert "config.deep.rate: 0.1 -> 0.2; config.extra: null -> true; inputs.corpus: " in text
    assert '"fffff' in text
    assert '"00000' in text
    assert "size" not in text
    assert caught.value.exit_code == 2
    assert {info.key: open_store(root_uri).read(info.key) for info in open_store(root_uri).list()} == before


def test_an_input_may_move_but_not_change(tmp_path):
    make(str(tmp_path / "a"))
    moved = request().model_copy(update={"inputs": [InputRef(role="corpus", uri="/else", fingerprint="f" * 64)]})
    assert isinstance(open_output(str(tmp_path / "a"), moved), Artifact)


def test_strangers_files_are_left_alone(root_uri):
    store = open_store(root_uri)
    store.write("thesis.tex", b"dear")
    with pytest.raises(UsageError, match=r"holds other files \(thesis\.tex\); choose an empty --output"):
        open_output(root_uri, request())
    assert keys(store) == ["thesis.tex"]


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(Exception, match="a part of the path is a file, not a folder"):
        open_output(str(tmp_path / "out"), request())


def test_opening_what_is_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(UsageError, match=r"holds no artifact \(expected a finished corpus or index\)"):
        open_artifact(str(tmp_path / "none"), "corpus", "index")
    make(str(tmp_path / "e"))
    with pytest.raises(UsageError, match="holds a embeddings artifact, expected corpus"):
        open_artifact(str(tmp_path / "e"), "corpus")
    assert find_artifact(str(tmp_path / "none")) is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"kind": 1}'])
def test_a_damaged_manifest_or_job_is_named(tmp_path, damage):
    make(str(tmp_path / "a"))
    (tmp_path / "a" / "artifact.json").write_bytes(damage)
    with pytest.raises(DataError, match=r"artifact\.json: not a manifest of this program, or damaged"):
        find_artifact(str(tmp_path / "a"))
    open_output(str(tmp_path / "b"), request())
    (tmp_path / "b" / "_job.json").write_bytes(damage)
    with pytest.raises(DataError, match=r"_job\.json: not written by this program, or damaged"):
        open_output(str(tmp_path / "b"), request())


def test_verify_finds_every_kind_of_damage(root_uri):
    artifact = make(root_uri, contents={name: name.encode() * 1000 for name in ("bit", "longer", "gone", "fine")})
    store = artifact.store
    data = bytearray(store.read("bit"))
    data[1717] ^= 0x08
    store.write("bit", bytes(data))
    store.write("longer", store.read("longer") + b"x")
    store.delete("gone")
    problems = verify_artifact(open_artifact(root_uri))
    assert len(problems) == 3
    assert "bit: checksum does not match" in problems[0]
    assert "gone: missing" in problems[1]
    assert "longer: 6001 bytes, expected 6000" in problems[2]


def test_the_fingerprint_is_of_the_content_alone(tmp_path, monkeypatch):
    one = make(str(tmp_path / "one"), seconds=1)
    monkeypatch.setattr("ccp_ray.artifact._provenance", lambda: {"versions": {"ray": "99"}})
    reordered = make(str(tmp_path / "two"), contents={"a/x": b"x" * 100, "b": b"bb"}, seconds=99)
    assert one.fingerprint == reordered.fingerprint
    shutil.move(tmp_path / "two", tmp_path / "three")
    assert open_artifact(str(tmp_path / "three")).fingerprint == one.fingerprint
    content = {"kind": "embeddings", "config": one.config, "inputs": {"corpus": "f" * 64}}
    files = {record.path: record.sha256 for record in one.files}
    assert one.fingerprint == digest_json(content | {"files": files})
    others = [
        make(str(tmp_path / "c1"), contents={"b": b"bB", "a/x": b"x" * 100}),
        make(str(tmp_path / "c2"), contents={"b2": b"bb", "a/x": b"x" * 100}),
        make(str(tmp_path / "c3"), request(size=5)),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_measured_file_is_verified_but_not_part_of_the_fingerprint(tmp_path):
    made = []
    for seconds in (b"1.5", b"99"):
        output = open_output(str(tmp_path / seconds.decode()), request())
        assert isinstance(output, Output)
        speeds = put_bytes(output.store, "speed.jsonl", seconds).model_copy(update={"measured": True})
        made.append(output.finish([put_bytes(output.store, "x", b"1"), speeds], {}))
    assert made[0].fingerprint == made[1].fingerprint
    made[1].store.write("speed.jsonl", b"98")
    assert "speed.jsonl: checksum does not match" in verify_artifact(made[1])[0]


def test_abandon_leaves_a_fresh_place_as_it_was(root_uri):
    output = open_output(root_uri, request())
    assert isinstance(output, Output)
    put_bytes(output.store, "data/x", b"1")
    output.ledger.commit("0", Entry())
    output.abandon()
    assert keys(output.store) == []
    assert isinstance(open_output(root_uri, request(size=5)), Output)


def test_abandon_keeps_an_earlier_runs_work(root_uri):
    first = open_output(root_uri, request())
    assert isinstance(first, Output)
    first.ledger.commit("0", Entry())
    again = open_output(root_uri, request())
    assert isinstance(again, Output)
    again.abandon()
    assert again.ledger.committed() == {"0"}


def test_abandon_killed_at_any_point_can_be_continued(tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    for survived in range(4):
        uri = str(tmp_path / str(survived))
        output = open_output(uri, request())
        assert isinstance(output, Output)
        for key in ("Z", "a", "z"):
            put_bytes(output.store, key, b"1")
        left = iter(range(survived))
        delete = LocalStore.delete

        def dying(self, key, left=left, delete=delete):
            if next(left, None) is None:
                raise KilledError
            delete(self, key)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "delete", dying)
            with pytest.raises(KilledError):
                output.abandon()
        assert isinstance(open_output(uri, request()), Output)


def test_several_openers_agree_on_who_is_fresh(tmp_path):
    outputs = [open_output(str(tmp_path / "a"), request()) for _ in range(3)]
    assert [output.fresh for output in outputs if isinstance(output, Output)] == [True, False, False]


values = st.recursive(
    st.integers(0, 3) | st.sampled_from("ab") | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_the_diff_of_equals_is_empty(old, new):
    assert field_diff(old, old) == []
    if digest_json(old) == digest_json(new):
        assert field_diff(old, new) == []
    assert len(field_diff(old, new)) == len(field_diff(new, old))


def test_the_diff_shortens_long_values():
    (line,) = field_diff({"a": {"b": "x" * 500}}, {"a": {"b": 1}})
    assert line.startswith('a.b: "xxx')
    assert line.endswith("-> 1")
    assert len(line) < 80


def test_digest_is_of_canonical_json():
    assert digest_json({"b": 1, "a": [1.5, None]}) == digest_json(json.loads('{ "a": [1.5, null], "b": 1 }'))
