"""Where data sets that do not travel with the package are looked for."""

import os
from pathlib import Path

from recjax.errors import UserError


def data_folder(name: str) -> Path:
    """Returns the folder of the data set `name`: under $RECJAX_DATA if that is set, else ~/.cache/recjax/data."""
    root = os.environ.get("RECJAX_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(root) if root else cache / "recjax" / "data") / name


def require_files(name: str, folder: Path, *files: str) -> None:
    """Raises UserError unless every one of `files` is in `folder`; the message says how to get the data set `name`."""
    for file in files:
        if not (folder / file).exists():
            raise UserError(
                f"{name}: {folder / file} is not there; python -m tools.fetch_data {name} brings it or says how"
            )
