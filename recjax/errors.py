"""Errors caused by what the user gave: one line each, exit code 2 at the command line."""

import difflib
from collections.abc import Iterable, Mapping


class UserError(ValueError):
    """Input that recjax cannot use; the message says what was wrong, seen, allowed and how to fix it."""


class SplitError(UserError):
    """A model's layers cannot be split over the devices."""


class DeviceError(RuntimeError):
    """The requested device is not there; recjax never falls back to another one."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read."""


class TrainingDivergedError(RuntimeError):
    """The loss stopped being a finite number."""


def unknown_name(kind: str, value: str, valid: Iterable[str], synonyms: Mapping[str, str] | None = None) -> UserError:
    """Returns the error for a name that is not one of `valid`, with the one it stands for or is nearest to, if any."""
    names = sorted(valid)
    closest = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    meant = (synonyms or {}).get(value) or next(iter(closest), None)
    hint = f"; did you mean {meant!r}?" if meant else ""
    return UserError(f"unknown {kind} {value!r}; valid: {', '.join(names)}{hint}")
