"""How long a request waits for a store that is out, and what a person hears of it.

botocore's standard mode tries 8 times (`TRIES`): 3 s in all where nobody answers, 35 s where the store says SlowDown.
An outage of half a minute would end a run of days, so after these tries a request goes on trying until
`CCP_RAY_STORE_PATIENCE` seconds (600) have passed since it first failed: a random wait of up to 1, 2, 4, 8, 16 and then
20 s, so that many workers do not come back at one moment (full jitter), and one last try at the end. Then the error
ends the run, and what is committed stays. An answer that is a refusal (403, 404, 412) is no outage and is never tried
again.

A person who mistypes an endpoint should not wait that long: until it has answered this process once, it is given 20 s.
In Ray's workers the driver has reached it before, so they have full patience from the start. `AWS_MAX_ATTEMPTS`, where
it is set, says how many tries a request gets, and there is no patience beyond them.

Keep it below 30 minutes: by then torch ends the group of workers that wait for the one that waits for the store.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import HTTPClientError

from ccp_ray.errors import UsageError, redacted
from ccp_ray.progress import say

VARIABLE = "CCP_RAY_STORE_PATIENCE"
TRIES = 8  # botocore's
_DEFAULT_S, _FIRST_S = 600.0, 20.0
_TOLD_AFTER_S = 15.0
_LONGEST_WAIT_S = 20.0
_OUT_STATUS = {429, 500, 502, 503, 504}
_OUT_CODES = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_FAILED = "ccp_ray_failed_at"  # in botocore's context of one request


def patience_s() -> float:
    """Seconds that a request waits for a store that has answered before. Raises UsageError."""
    if "AWS_MAX_ATTEMPTS" in os.environ:
        return 0.0
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text else _DEFAULT_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"{VARIABLE}={text}: expected seconds to wait for a store that does not answer, 0 or more")
    return seconds


@dataclass
class Patience:
    """Of one client: knows since when its endpoint is silent. Thread-safe: a client's requests run side by side."""

    endpoint: str
    seconds: float
    answered: bool = "RAY_RAYLET_PID" in os.environ  # in a worker of Ray
    _silent_since: float | None = None
    _told: bool = False
    _trouble: str = ""

    def __post_init__(self) -> None:
        self.endpoint = redacted(self.endpoint)  # the URL may carry a password
        self._lock = threading.Lock()

    def needs_retry(
        self, response: Any, caught_exception: Exception | None, request_dict: dict[str, Any], attempts: int, **_: Any
    ) -> float | None:
        """botocore's event after each try: seconds to wait before the next; None: no more tries for our sake."""
        trouble = _trouble(response, caught_exception)
        if trouble is None:
            self._answers(caught_exception is None)
            return None
        now = time.monotonic()
        since: float = request_dict["context"].setdefault(_FAILED, now)
        self._is_silent(now, trouble)
        left = since + (self.seconds if self.answered else min(self.seconds, _FIRST_S)) - now
        if left <= 0:
            return None
        most = min(_LONGEST_WAIT_S, 2.0 ** min(max(attempts - TRIES, 0), 10))
        return min(random.uniform(0, most), left)  # noqa: S311 - nothing secret

    def _is_silent(self, now: float, trouble: str) -> None:
        """A timer tells of it, for the next try may be 20 s away."""
        with self._lock:
            self._trouble = trouble
            if self._silent_since is not None or not self.answered or not self.seconds:
                return
            self._silent_since = now
        timer = threading.Timer(_TOLD_AFTER_S, self._tell, (now,))
        timer.daemon = True
        timer.start()

    def _tell(self, since: float) -> None:
        with self._lock:
            if self._silent_since != since:
                return
            self._told = True
        waited = f"{time.monotonic() - since:.0f} s ({self._trouble})"
        say(
            f"store: {self.endpoint} has been out for {waited}; each request waits up to {self.seconds:.0f} s for it "
            f"({VARIABLE}), then the run ends and what is committed stays"
        )

    def _answers(self, answered: bool) -> None:
        """answered: False for what never reached the store, such as a request without credentials."""
        if not answered or (self.answered and self._silent_since is None):
            return
        with self._lock:
            self.answered = True
            since, told = self._silent_since, self._told
            self._silent_since, self._told = None, False
        if told and since is not None:
            say(f"store: {self.endpoint} answers again, after {time.monotonic() - since:.0f} s")


def _trouble(response: Any, caught: Exception | None) -> str | None:
    """What is wrong with the store, in a few words; None where it answered (a refusal is an answer)."""
    if caught is not None:
        return type(caught).__name__ if isinstance(caught, (BotoConnectionError, HTTPClientError)) else None
    if response is None:
        return None
    http, parsed = response
    code = str(parsed.get("Error", {}).get("Code", ""))
    if http.status_code in _OUT_STATUS or code in _OUT_CODES:
        return f"{http.status_code} {'' if code == str(http.status_code) else code}".strip()  # of a HEAD it is both
    return None
