"""Looks at the store now and then while workers work, so that a person hears when it is out.

Workers wait for a store by themselves (`patience`), but what they say goes to their own log files, and the driver may
have nothing to ask of the store for minutes. So it asks for a small object every few seconds: its own request then
waits like theirs, and says so. Cost: one HEAD request in 5 s.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ccp_ray.errors import StoreError
from ccp_ray.storage import Store

_EVERY_S = 5.0
_OBJECT = "_job.json"


@contextlib.contextmanager
def watched(store: Store) -> Iterator[None]:
    """Within, an outage of the store is told. Local stores are left alone."""
    over = threading.Event()
    if not store.root.startswith("s3://"):
        yield
        return

    def look() -> None:
        while not over.wait(_EVERY_S):
            # What fails for good ends the run by the request that needs it, not by this one.
            with contextlib.suppress(StoreError):
                store.size(_OBJECT)

    threading.Thread(target=look, name="store-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()  # not joined: it may be waiting for a store that is out
