"""Files at a pinned commit of a real repository: that commit and no other, from plain and from filtering servers."""

from __future__ import annotations

import pytest
from eltec import commit, git

from ccp_ray.errors import DataError, UsageError
from jobs.pinned import pinned_tree

FILES = {
    "level1/A1_x.xml": "first\r\n",
    "level1/ü b.xml": "umlaut",
    "README.md": "read",
    "level1/big.xml": "b" * 300_000,
}


def read(url: str, pinned: str, *paths: str) -> list[tuple[str, bytes]]:
    with pinned_tree(url, pinned) as tree:
        return list(tree.read(list(paths)))


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("filters", ["false", "true"])
def test_the_pinned_commit_is_read(tmp_path, scheme, filters):
    repository = tmp_path / "ELTeC-eng"
    # an attribute that would change line ends in a checkout must not change what is read
    first = commit(repository, FILES | {".gitattributes": "*.xml text eol=crlf filter=x\n"})
    commit(repository, {"level1/A1_x.xml": "second\n"})
    git(repository, "config", "uploadpack.allowFilter", filters)
    url = f"{scheme}{repository}"
    with pinned_tree(url, first) as tree:
        assert set(tree.blobs) == {*FILES, ".gitattributes"}
        got = dict(tree.read(["level1/ü b.xml", "level1/A1_x.xml"]))
    assert got == {"level1/ü b.xml": b"umlaut", "level1/A1_x.xml": b"first\n"}  # as stored; a checkout has \r\n
    assert list(got) == ["level1/ü b.xml", "level1/A1_x.xml"]
    assert not tree.folder.exists()


def test_only_the_wanted_contents_come(tmp_path):
    repository = tmp_path / "r"
    pinned = commit(repository, FILES)
    git(repository, "config", "uploadpack.allowFilter", "true")
    with pinned_tree(f"file://{repository}", pinned) as tree:
        assert list(tree.read(["README.md"])) == [("README.md", b"read")]
        there = git(tree.folder, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)").split()
    assert tree.blobs["README.md"] in there
    assert tree.blobs["level1/big.xml"] not in there


def test_another_commit_is_refused(tmp_path):
    repository = tmp_path / "r"
    pinned = commit(repository, FILES)
    other = tmp_path / "other"
    commit(other, FILES | {"level1/A1_x.xml": "altered"})  # the same date and author: only the text differs
    with pytest.raises(DataError, match=rf"other: commit {pinned} cannot be read \(git: .*not our ref.*--from DIR"):
        read(str(other), pinned, "README.md")


def test_a_text_put_in_place_of_another_is_refused(tmp_path):
    """The repository still has the commit, but an object's file holds other bytes under the old name."""
    repository = tmp_path / "r"
    pinned = commit(repository, FILES)
    wrong = git(repository, "hash-object", "-w", "README.md")
    (repository / "new").write_text("altered text")
    altered = git(repository, "hash-object", "-w", "new")
    objects = repository / ".git" / "objects"
    target = objects / wrong[:2] / wrong[2:]
    target.chmod(0o644)
    target.write_bytes((objects / altered[:2] / altered[2:]).read_bytes())
    with pytest.raises(DataError, match=rf"r: commit {pinned} cannot be read"):
        read(f"file://{repository}", pinned, "README.md")


def test_addresses(tmp_path):
    for url in (
        "http://example.org/x",
        "ssh://example.org/x",
        "ext::sh -c true",
        "relative/folder",
        "git@example.org:x",
    ):
        with pytest.raises(UsageError, match="expected an https:// or file:// address"):
            read(url, "0" * 40)
    with pytest.raises(DataError, match=r"nothing: commit 0{40} cannot be read \(git: "):
        read(str(tmp_path / "nothing"), "0" * 40)


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"git is not installed.*install git"):
        read(str(tmp_path), "0" * 40)


def test_surrounding_repositories_are_left_alone(tmp_path, monkeypatch):
    """As within a git hook, where the environment names another repository."""
    repository, mine = tmp_path / "r", tmp_path / "mine"
    pinned = commit(repository, FILES)
    commit(mine, {"x": "y"})
    before = sorted(path for path in mine.rglob("*"))
    monkeypatch.setenv("GIT_DIR", str(mine / ".git"))
    assert read(str(repository), pinned, "README.md") == [("README.md", b"read")]
    assert sorted(path for path in mine.rglob("*")) == before
