"""Errors are part of the interface: each names the thing, says what was expected and what to do.

Every error that a user can cause is a `CcpError`; the command line prints it as one line and exits with
`exit_code`: 2 for wrong usage or configuration, 1 for work that failed. Anything else that escapes is a bug
and keeps its traceback.
"""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/\s]+@")
_SIGNED = re.compile(r"(?i)([?&](?:x-amz-[\w-]+|awsaccesskeyid|signature|token|sig)=)[^&\s]+")


def redacted(text: str) -> str:
    """The text with users and passwords of addresses, and the signatures of signed ones, left out."""
    return _SIGNED.sub(r"\1***", _USER.sub("***@", text))


class CcpError(Exception):
    """Work failed for a reason that the user can act on. Its message never holds what an address hides."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class UsageError(CcpError):
    """Wrong usage or configuration; nothing was touched."""

    exit_code = 2


class DataError(CcpError):
    """Input that cannot be used: unreadable, empty, or with too many bad rows."""


class TrainingError(CcpError):
    """Training went wrong at a step: a loss, weight or vector that is not finite, or what the monitor stops at.

    All ranks raise it at the same step, and the same run breaks down there again. For an ablation that is a result,
    where any other error is a failed run.
    """


class TooFewRowsError(DataError):
    """Too few vectors of a language to fit a calibration; what needs none can still be done."""


class CollapseError(DataError):
    """Vectors without variance: the encoder that made them has collapsed. For an ablation that is a result too."""


class StoreError(CcpError):
    """The store refused, lost or altered something."""


class DamagedError(StoreError):
    """An object is missing, or is not what its writer recorded."""


class DriftError(UsageError):
    """An output or input is not what an earlier run recorded."""


def carry(error: CcpError) -> str:
    """An error as text that crosses a Ray task's boundary as data; Ray would wrap the exception beyond recognition."""
    return f"{type(error).__name__}:{error}"


def raise_carried(text: str) -> None:
    """Raise what `carry` wrote; nothing for an empty text."""
    if text:
        kind, _, message = text.partition(":")
        known: dict[str, type[CcpError]] = {
            c.__name__: c
            for c in (CcpError, UsageError, DataError, TrainingError, StoreError, DamagedError, DriftError)
        }
        raise known.get(kind, CcpError)(message)
