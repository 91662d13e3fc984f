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
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2, and that completes no option's name.

    Its epilog keeps its line breaks.
    """

    def __init__(self, **options: object) -> None:
        """Takes the options of ArgumentParser."""
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=form, allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Exits with 2 after one line."""
        self.exit(UNUSABLE, f"error: {message}; see {self.prog} --help\n")


def add_parallel_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say over which devices a run is spread."""
    parser.add_argument(
        "--parallel", metavar="pjit|pmap", help="train on all devices: on a mesh, or in replicas (default: on one)"
    )
    parser.add_argument(
        "--mesh", metavar="data=n,model=m", help="devices along each axis, -1 for the rest (default: data=-1,model=1)"
    )


def parallel_overrides(options: argparse.Namespace) -> list[str]:
    """Returns the overrides of an experiment that `--parallel` and `--mesh` stand for.

    Raises:
      UserError: an option of another form.
    """
    overrides = [f"parallel.strategy={options.parallel}"] if options.parallel else []
    sizes = parse_mesh(options.mesh) if options.mesh else {}
    return overrides + [f"parallel.{name}={size}" for name, size in sizes.items()]


def parse_mesh(text: str) -> dict[str, int]:
    """Returns the sizes that a text such as "data=-1,model=2" names.

    Raises:
      UserError: another form.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, separator, size = part.strip().partition("=")
        is_number = size.removeprefix("-").isdecimal()
        if name not in ("data", "model") or not separator or not is_number or name in sizes:
            raise UserError(
                f"--mesh is {text!r}; allowed: data=n, model=n or both, once each, as data=-1,model=2; -1 is the rest"
            )
        sizes[name] = int(size)
    return sizes


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
        if error.errno == errno.EACCES:  # of reading or of writing: the error does not say of which
            print(
                f"error: no access to {error.filename or 'a file'}: {error.strerror}; change its permissions, or give "
                "another path; what was written before is kept",
                file=sys.stderr,
            )
            return UNUSABLE
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
