"""Files that are whole or not there."""

from pathlib import Path
from typing import BinaryIO

import pytest

from recjax.whole_files import drop_half_line, write_json, write_whole


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    write_json(file, {"n": 1})

    def half(open_file: BinaryIO) -> None:
        open_file.write(b'{"n"')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(file, half)
    assert file.read_text() == '{"n": 1}'
    assert list(tmp_path.iterdir()) == [file]


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "facts.json", float("nan"))
    assert not (tmp_path / "facts.json").exists()


@pytest.mark.parametrize("end", [b"", b'{"half', b"{}"])
def test_half_a_line_goes_and_whole_ones_stay(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"{}\n{}\n" + end)
    drop_half_line(file)
    assert file.read_bytes() == b"{}\n{}\n"


def test_an_empty_file_stays_empty(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.touch()
    drop_half_line(file)
    assert file.read_bytes() == b""
