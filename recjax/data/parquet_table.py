"""Tables in Parquet files: columns that must be there, of the kind that a data set publishes them in.

Errors begin with the path and, where one row is at fault, with its number from 1 in the place of a line.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa
import pyarrow.parquet

from recjax.data.typed_column import TypedColumn
from recjax.errors import UserError

Kind = Literal["integers", "numbers", "texts", "moments"]


def _is_text(of: pa.DataType) -> bool:
    of = cast(pa.DictionaryType, of).value_type if pa.types.is_dictionary(of) else of
    return pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of)


_IS_KIND: Mapping[Kind, Callable[[pa.DataType], bool]] = {
    "integers": pa.types.is_integer,
    "numbers": lambda of: pa.types.is_integer(of) or pa.types.is_floating(of),
    "texts": _is_text,
    "moments": pa.types.is_timestamp,
}


def read_parquet(path: Path, columns: Mapping[str, Kind]) -> dict[str, TypedColumn]:
    """Returns the columns of a Parquet file by name; others than those of `columns` are not read.

    Args:
      path: of the file.
      columns: what each one must hold.

    Raises:
      UserError: the file cannot be used.
    """
    names = ", ".join(columns)
    if path.is_dir():
        raise UserError(f"{path}: is a directory; expected a Parquet file of {names}")
    try:
        with pa.OSFile(str(path)) as file, pyarrow.parquet.ParquetFile(file) as parquet:
            _check_schema(path, parquet.schema_arrow, columns)
            table = parquet.read(columns=list(columns))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a Parquet file of {names}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        reason = "a name in it is not UTF-8" if isinstance(error, UnicodeDecodeError) else reason
        raise UserError(f"{path}: cannot be read as Parquet ({reason}); expected the file as published") from error
    if not len(table):
        raise UserError(f"{path}: has no row; expected rows of {names}")
    for name, kind in columns.items():
        if kind == "texts":
            _check_text(path, name, table[name])
    return {name: TypedColumn(path=path, name=name, values=_plain(table[name], kind)) for name, kind in columns.items()}


def _check_schema(path: Path, schema: pa.Schema, columns: Mapping[str, Kind]) -> None:
    for name, kind in columns.items():
        count = schema.names.count(name)
        if count != 1:
            found = "no column" if not count else f"{count} times the column"
            raise UserError(f"{path}: {found} {name!r} in {', '.join(schema.names)}; expected {', '.join(columns)}")
        of = schema.field(name).type
        if not _IS_KIND[kind](of):
            raise UserError(f"{path}, column {name!r}: values of type {of}; expected {kind}")


def _check_text(path: Path, name: str, values: pa.ChunkedArray) -> None:
    """Raises UserError at the first row that is not UTF-8, which Arrow does not look at until Python asks for it."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        for row, value in enumerate(values.cast(pa.string()).cast(pa.binary()).to_pylist(), 1):
            try:
                (value or b"").decode()
            except UnicodeDecodeError:
                raise UserError(f"{path}:{row}, column {name!r}: {value!r}; expected UTF-8") from error
        raise UserError(f"{path}, column {name!r}: damaged; expected the file as published") from error


def _plain(values: pa.ChunkedArray, kind: Kind) -> pa.ChunkedArray:
    """Returns texts as one type of string, whatever encoding the writer chose."""
    return values.cast(pa.string()) if kind == "texts" else values
