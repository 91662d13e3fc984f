from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recjax.data.parquet_table import read_parquet
from recjax.errors import UserError


def test_reads_the_named_columns_alone(tmp_path: Path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [3, 1], "b": ["x", None], "c": [0.5, 1.0]}), path)
    read = read_parquet(path, {"b": "texts", "a": "integers"})
    assert list(read) == ["b", "a"]
    assert read["a"].integers(0, 3).tolist() == [3, 1]
    assert read["b"].texts().tolist() == ["x", ""]
    assert len(read["b"]) == 2


def test_rows_are_numbered_across_row_groups(tmp_path: Path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [*range(1000), -1]}), path, row_group_size=64)
    with pytest.raises(UserError) as error:
        read_parquet(path, {"a": "integers"})["a"].integers(0, 2000)
    assert str(error.value) == f"{path}:1001, column 'a': -1; expected an integer from 0 to 2000"


def test_what_is_no_parquet_file_is_refused(tmp_path: Path):
    path = tmp_path / "x.parquet"
    with pytest.raises(UserError) as error:
        read_parquet(tmp_path, {"a": "integers"})
    assert str(error.value) == f"{tmp_path}: is a directory; expected a Parquet file of a"
    with pytest.raises(UserError) as error:
        read_parquet(path, {"a": "integers", "b": "texts"})
    assert str(error.value) == f"{path}: no such file; expected a Parquet file of a, b"
    path.write_text("user,item\n1,2\n")
    with pytest.raises(UserError) as error:
        read_parquet(path, {"a": "integers"})
    assert str(error.value) == (
        f"{path}: cannot be read as Parquet (Parquet magic bytes not found in footer. Either the file is corrupted or "
        "this is not a parquet file.); expected the file as published"
    )
    path.write_bytes(b"")
    with pytest.raises(UserError) as error:
        read_parquet(path, {"a": "integers"})
    assert str(error.value) == (
        f"{path}: cannot be read as Parquet (Parquet file size is 0 bytes); expected the file as published"
    )


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": list(range(100_000))}), path, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[1000:60_000] = bytes(59_000)
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_parquet(path, {"a": "integers"})
    assert str(error.value).startswith(f"{path}: cannot be read as Parquet (")
    assert "\n" not in str(error.value)


def test_text_and_names_that_are_not_utf_8_are_refused(tmp_path: Path):
    path = tmp_path / "x.parquet"
    damaged = pa.array([b"fine", None, b"caf\xe9"]).view(pa.string())
    for texts in (damaged, damaged.dictionary_encode()):
        pq.write_table(pa.table({"a": texts}), path)
        with pytest.raises(UserError) as error:
            read_parquet(path, {"a": "texts"})
        assert str(error.value) == f"{path}:3, column 'a': b'caf\\xe9'; expected UTF-8"
    pq.write_table(pa.table({"user": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"user", b"us\xffr"))
    with pytest.raises(UserError) as error:
        read_parquet(path, {"user": "integers"})
    assert str(error.value) == (
        f"{path}: cannot be read as Parquet (a name in it is not UTF-8); expected the file as published"
    )


def test_a_column_that_stands_twice_is_refused(tmp_path: Path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(UserError) as error:
        read_parquet(path, {"a": "integers"})
    assert str(error.value) == f"{path}: 2 times the column 'a' in a, a; expected a"
