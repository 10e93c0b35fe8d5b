"""Search by Ray actors: the hits of one process, also when an actor is killed in between."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import ray
import tiny_models
from command_line import ccp, flip
from hypothesis import given
from hypothesis import strategies as st
from index_factory import build, queries, rows

from ccp_ray import search_actors
from ccp_ray.artifact import Artifact
from ccp_ray.errors import CcpError, DamagedError, UsageError
from ccp_ray.model_source import model_reference
from ccp_ray.search import Index
from ccp_ray.search_actors import ShardActors, deal


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """200 rows, 40 of them one vector, in three shards."""
    return build(tmp_path_factory.mktemp("actors") / "index", *rows(200, copies=40), 3)


@pytest.fixture(scope="module")
def by_actors(ray_local: None, built: Artifact) -> Iterator[Index]:
    with Index.open(built.uri, actors=2) as index:
        yield index


def actors_of(index: Index) -> list:
    assert isinstance(index._shards, ShardActors)
    return index._shards._actors


def asked() -> np.ndarray:
    return np.concatenate([queries(25), rows(200, copies=40)[0][:1]])


# First: once `by_actors` is there, its actors hold both CPUs.
def test_an_altered_shard_is_refused_by_name(ray_local, tmp_path):
    built = build(tmp_path / "index", *rows(20), 2)
    flip(Path(built.uri, "shards/shard-00001.faiss"))
    with pytest.raises(DamagedError, match=r"shard-00001\.faiss: altered or damaged"):
        Index.open(built.uri, actors=2)


def test_the_command_searches_by_actors(ray_local, tmp_path):
    encoder = model_reference("encoder", str(tiny_models.plain_folder(tmp_path / "encoder"))).model_dump()
    built = build(tmp_path / "index", *rows(40), 2, encoder=encoder)
    here, there = (ccp("search", built.uri, "abc", "de", "-k", 3, *more) for more in ([], ["--actors", 1]))
    assert (there.code, there.out) == (0, here.out)
    assert here.out.splitlines()[0] == "abc"


def test_two_actors_give_the_hits_of_one_process(by_actors, built, monkeypatch):
    here = Index.open(built.uri)
    assert len(actors_of(by_actors)) == 2
    for only in (None, "sw"):
        assert by_actors.search(asked(), 12, only) == here.search(asked(), 12, only)
    monkeypatch.setattr(search_actors, "_BLOCK", 7)
    assert by_actors.search(asked(), 12) == here.search(asked(), 12)
    assert by_actors.search(asked()[:0], 12) == []
    assert by_actors.languages == here.languages == ["de", "en", "sw"]


def test_an_actor_that_is_killed_is_started_and_asked_again(by_actors, built):
    here = Index.open(built.uri).search(asked(), 12)
    victim = actors_of(by_actors)[0]
    os.kill(ray.get(victim.pid.remote()), signal.SIGKILL)
    assert by_actors.search(asked(), 12) == here


def test_an_actor_that_is_killed_within_a_query_gives_the_same_hits(by_actors, built, monkeypatch):
    """It is stopped first, so that it cannot have answered, and killed when the first answers are waited for."""
    here, waited_for, gather = Index.open(built.uri).search(asked(), 12), Event(), ShardActors._gather

    def noted(answers: list[Any]) -> list[Any]:
        waited_for.set()
        return gather(answers)

    monkeypatch.setattr(search_actors, "_BLOCK", 7)
    monkeypatch.setattr(ShardActors, "_gather", staticmethod(noted))
    victim = ray.get(actors_of(by_actors)[1].pid.remote())
    os.kill(victim, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(by_actors.search, asked(), 12)
        assert waited_for.wait(60)
        os.kill(victim, signal.SIGKILL)
        assert answer.result() == here
    assert ray.get(actors_of(by_actors)[1].pid.remote()) != victim


def test_more_actors_than_cpus_are_refused(ray_local, built):
    with pytest.raises(UsageError, match="99 actors: the cluster has 2 CPUs"):
        Index.open(built.uri, actors=99)


def test_queries_are_checked_before_any_actor_is_asked(by_actors):
    with pytest.raises(UsageError, match="k must be at least 1"):
        by_actors.search(asked(), 0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 25))
def test_every_shard_is_dealt_once_and_no_hand_is_empty(shards, hands):
    dealt = deal(shards, hands)
    assert sorted(n for hand in dealt for n in hand) == list(range(len(shards)))
    assert len(dealt) == min(hands, len(shards))
    assert all(dealt)
    held = [sum(shards[n] for n in hand) for hand in dealt]
    assert max(held) - min(held) <= max(shards)


def test_actors_have_names_that_say_what_they_hold(by_actors: Index) -> None:
    names = sorted(name for name in ray.util.list_named_actors() if name.startswith("search-"))
    assert len(names) == len(actors_of(by_actors)) == 2
    assert all(re.fullmatch(r"search-actors\d*-index shards? \d(, \d)? [0-9a-f]{6}", name) for name in names)


def test_an_actor_that_died_too_often_is_an_error_that_says_so(by_actors: Index) -> None:
    """Last: nobody can search by these actors any more."""
    ray.kill(actors_of(by_actors)[0], no_restart=True)
    with pytest.raises(CcpError, match="a search actor died more than 3 times; has its machine the memory"):
        by_actors.search(asked(), 12)
