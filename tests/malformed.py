"""A folder of a data set with one defect, and the one line that must tell it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from recjax.data.interactions import Interactions
from recjax.errors import UserError


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Returns `folder` with `files` in it."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def check_refused(
    load: Callable[[Path], Interactions],
    folder: Path,
    files: Mapping[str, bytes],
    defect: tuple[str, bytes, bytes] | tuple[str, bytes | None],
    message: str,
) -> None:
    """Checks that `load` refuses `files` with this `defect` by exactly `message`, in which FOLDER is the folder.

    Args:
      load: the reader.
      folder: that the files are written to.
      files: well-formed, by name.
      defect: a file, what stands in it (once), and what shall stand there; or a file and its whole content, None if
        it shall be missing.
    """
    name = defect[0]
    changed = dict(files)
    if len(defect) == 3:
        assert files[name].count(defect[1]) == 1, f"{defect[1]!r} does not stand once in {name}"
        changed[name] = files[name].replace(defect[1], defect[2])
    elif defect[1] is None:
        del changed[name]
    else:
        changed[name] = defect[1]
    write_files(folder, changed)
    with pytest.raises(UserError) as error:
        load(folder)
    assert str(error.value) == message.replace("FOLDER", str(folder))
