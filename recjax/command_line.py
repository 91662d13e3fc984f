"""What recjax's command lines share: one-line argument errors, and one-line reports of what the user can fix."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from recjax.errors import CheckpointError, DeviceError, TrainingDivergedError, UserError

UNUSABLE = 2
INTERRUPTED = 130  # the shell's code for Ctrl-C
NOBODY_READS = 141  # the shell's code for a broken pipe, as after `| head`
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2; its epilog keeps its line breaks."""

    def __init__(self, **options: object) -> None:
        """Takes the options of ArgumentParser."""
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Exits with 2 after one line."""
        self.exit(UNUSABLE, f"error: {message}; see {self.prog} --help\n")


def make_output_folder(folder: Path) -> None:
    """Makes the folder and those above it.

    Raises:
      UserError: it is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the output folder {folder}: {error.strerror}; give another one with --out"
        ) from error


def run_command(command: Callable[[], int]) -> int:
    """Returns the command's exit code; an error that the user can mend becomes one line on stderr and 2."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        return NOBODY_READS
    except (UserError, DeviceError, CheckpointError, TrainingDivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        print(
            f"error: cannot write {error.filename or 'results'}: {error.strerror}; what was written before is kept",
            file=sys.stderr,
        )
        return UNUSABLE
    except (MemoryError, RuntimeError) as error:  # JAX's own is a RuntimeError, and is not imported here
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what = " ".join(str(error).split())[:160]
        remedy = "lower training.batch_size, serving.buckets or the model's sizes"
        print(f"error: out of memory ({what}); {remedy}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
