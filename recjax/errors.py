"""Errors caused by what the user gave: one line each, exit code 2 at the command line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Input that recjax cannot use; the message says what was wrong, seen, allowed and how to fix it."""


class DeviceError(RuntimeError):
    """The requested device is not there; recjax never falls back to another one."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read."""


class TrainingDivergedError(RuntimeError):
    """The loss stopped being a finite number."""


def unknown_name(kind: str, value: str, valid: Iterable[str]) -> UserError:
    """Returns the error for a name that is not one of `valid`, with the nearest match if there is one."""
    names = sorted(valid)
    nearest = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {value!r}; valid: {', '.join(names)}{hint}")
