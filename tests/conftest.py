"""Fixtures that several test files share: one local Ray for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ccp_ray.session import ray_session


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A local Ray with two CPUs; started once, at the first test that asks for it."""
    with ray_session(cpus=2):
        yield
