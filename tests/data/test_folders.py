from pathlib import Path

import pytest

from recjax.data.folders import data_folder, require_files
from recjax.errors import UserError


def test_the_folder_is_under_recjax_data_or_the_users_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RECJAX_DATA", "/sets")
    assert data_folder("ml-1m") == Path("/sets/ml-1m")
    monkeypatch.delenv("RECJAX_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_folder("ml-1m") == Path("/cache/recjax/data/ml-1m")


def test_a_missing_file_is_named_with_the_command_that_brings_it(tmp_path: Path):
    (tmp_path / "ratings.dat").touch()
    require_files("ml-1m", tmp_path, "ratings.dat")
    with pytest.raises(UserError) as error:
        require_files("ml-1m", tmp_path, "ratings.dat", "users.dat")
    assert str(error.value) == (
        f"ml-1m: {tmp_path}/users.dat is not there; python -m tools.fetch_data ml-1m brings it or says how"
    )
