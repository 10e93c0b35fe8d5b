"""Errors and retries of requests to S3, counted by operation and code in the process that made them.

botocore says of each try how it ended (`needs-retry`), so tries that succeeded at last are seen too. Answers that are
no failure are not counted: an object that is not there, a condition that is not met, a range beyond the end.
"""

from __future__ import annotations

from typing import Any

from ccp_ray.process_metrics import count

_ANSWERS = {
    *("404", "NoSuchKey", "NotFound", "NoSuchUpload"),
    *("304", "412", "PreconditionFailed", "416", "InvalidRange"),
}
_BEFORE = "ccp_ray_error"


def watch_requests(client: Any) -> None:
    """Count what goes wrong with this botocore client's requests from now on."""
    client.meta.events.register("needs-retry.s3", _tried)


def count_cut(operation: str, error: Exception) -> None:
    """An answer's body was cut off, which botocore does not see as a failed try, and is asked for again."""
    tags = {"operation": operation, "code": type(error).__name__}
    count("ccp_ray_store_errors", tags)
    count("ccp_ray_store_retries", tags)


def _tried(
    response: Any = None,
    operation: Any = None,
    attempts: int = 1,
    caught_exception: Exception | None = None,
    request_dict: Any = None,
    **_: object,
) -> None:
    """Called after each try, before botocore decides whether there is another; its request's context is kept."""
    context, code = request_dict["context"], _code(response, caught_exception)
    if attempts > 1:
        before = context.get(_BEFORE) or "unknown"
        count("ccp_ray_store_retries", {"operation": operation.name, "code": before})
    if code and code not in _ANSWERS:
        context[_BEFORE] = code
        count("ccp_ray_store_errors", {"operation": operation.name, "code": code})


def _code(response: Any, caught: Exception | None) -> str:
    """S3's name of what went wrong, or the exception's; "" for nothing."""
    if caught is not None:
        return type(caught).__name__
    if response is None or response[0].status_code < 300:
        return ""
    return str(response[1].get("Error", {}).get("Code") or response[0].status_code)
