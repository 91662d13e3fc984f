"""Interactions from delimited text: one `user,item,rating[,timestamp]` row a line, with or without a header."""

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64

from recjax.data.interactions import Interactions
from recjax.data.text_column import TextColumn, reject_repeats, shown
from recjax.data.text_table import BLOCK_BYTES, Layout, no_rows, not_one_row_per_line, read_columns, read_text
from recjax.errors import UserError, unknown_name

Duplicates = Literal["keep_last", "keep_first", "error"]

_BLOCK_BYTES = BLOCK_BYTES
_DELIMITERS = ",\t;"
_HEADER_NAMES = {
    "user": ("user", "userid", "user_id"),
    "item": ("item", "itemid", "item_id", "movieid"),
    "rating": ("rating",),
    "timestamp": ("timestamp",),
}
_LAYOUT = "user, item, rating[, timestamp]"


def read_delimited(
    path: str | Path, *, duplicates: Duplicates = "keep_last", require_integer_ids: bool = False
) -> Interactions:
    """Returns the interactions of a text file, sorted by user, then timestamp, then item.

    The file is UTF-8, plain or gzip (told by its first bytes), delimited by comma, tab or semicolon, one row a
    line; blank lines at the end are ignored. Columns are user, item, rating and, optionally, timestamp in this
    order, unless a header names them. The first line is a header if its third field is not a number; it may say
    user, userId or user_id, item, itemId, item_id or movieId, rating, timestamp, in any order and case, with
    RecBole's `:type` suffixes, and columns of other names are ignored. Without timestamps, rows are sorted by user
    and then stand in file order.

    The ids of a column are int64 if all are non-negative integers, and strings otherwise.

    Args:
      path: of the file; its stem (of `x.csv.gz`: `x`) becomes the name of the data set.
      duplicates: what is done where a (user, item) pair stands twice: `keep_last` keeps its row with the latest
        timestamp, `keep_first` the one with the earliest; equal or absent timestamps are decided by file order.
        `error` refuses the file.
      require_integer_ids: refuse ids that are not non-negative integers.

    Raises:
      UserError: the file cannot be used; one line that begins with path, line and, where there is one, column.
    """
    if duplicates not in get_args(Duplicates):
        raise unknown_name("duplicates policy", duplicates, get_args(Duplicates))
    path = Path(path)
    data = read_text(path, _LAYOUT)
    layout = _detect_layout(path, data)
    columns = read_columns(path, data, layout, block_bytes=_BLOCK_BYTES)

    user, user_ids = columns["user"].ids(integers=require_integer_ids)
    item, item_ids = columns["item"].ids(integers=require_integer_ids)
    interactions = Interactions(
        name=Path(path.name.removesuffix(".gz")).stem,
        user=user,
        item=item,
        rating=columns["rating"].floats(),
        timestamp=columns["timestamp"].timestamps() if "timestamp" in columns else None,
        user_ids=user_ids,
        item_ids=item_ids,
    )
    if duplicates == "error":
        _reject_duplicates(interactions, columns)
    else:
        interactions = interactions.select(rows_without_duplicates(interactions, duplicates))
    return interactions.in_order()


def _detect_layout(path: Path, data: bytes) -> Layout:
    line = io.BytesIO(data).readline().decode().rstrip("\r\n")
    delimiter = max(_DELIMITERS, key=line.count)
    if delimiter not in line:
        raise UserError(f"{path}:1: no comma, tab or semicolon in {shown(line)}; expected {_LAYOUT}")
    try:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=delimiter))]
    except csv.Error as error:
        raise not_one_row_per_line(path, 1) from error
    if len(fields) < 3:
        raise UserError(f"{path}:1: {len(fields)} columns in {shown(line)}; expected {_LAYOUT}")
    has_header = not _is_number(fields[2])
    if has_header:
        position = _find_columns(path, fields)
        if b"\n" not in data:
            raise no_rows(path, _LAYOUT)
    elif len(fields) > len(_HEADER_NAMES):
        raise UserError(
            f"{path}:1: {len(fields)} columns and no header; expected {_LAYOUT}, or a header that names them"
        )
    else:
        position = dict(zip(_HEADER_NAMES, range(len(fields)), strict=False))
    return Layout(
        delimiter=delimiter,
        names=fields if has_header else list(position),
        position=position,
        header_lines=int(has_header),
        first_line_counts=True,
    )


def _find_columns(path: Path, fields: list[str]) -> dict[str, int]:
    """Returns where each column stands in the header `fields`."""
    plain = [field.split(":")[0].strip().lower() for field in fields]
    position = {}
    for column, names in _HEADER_NAMES.items():
        found = [i for i, field in enumerate(plain) if field in names]
        if len(found) > 1:
            raise UserError(
                f"{path}:1: the header names the {column} column {len(found)} times, as "
                f"{' and '.join(shown(fields[i]) for i in found)}; expected once"
            )
        if found:
            position[column] = found[0]
        elif column != "timestamp":
            raise UserError(
                f"{path}:1: no {column} column in the header {shown(', '.join(fields))}; "
                f"expected {_LAYOUT}, or a number as third field if there is no header"
            )
    return position


def _pairs(interactions: Interactions) -> Int64[np.ndarray, "E"]:
    """Returns one number for each (user, item)."""
    return interactions.user.astype(np.int64) * interactions.n_items + interactions.item


def rows_without_duplicates(interactions: Interactions, duplicates: Duplicates) -> Int64[np.ndarray, "K"]:
    """Returns the one row to keep of every (user, item) pair, in file order."""
    pairs = _pairs(interactions)
    # Both sorts are stable: file order decides among equal timestamps.
    if interactions.timestamp is None:
        order = np.argsort(pairs, kind="stable")
    else:
        order = np.lexsort((interactions.timestamp, pairs))
    changes = np.diff(pairs[order]) != 0
    keep = np.append(changes, True) if duplicates == "keep_last" else np.insert(changes, 0, True)
    return np.sort(order[keep])


def _reject_duplicates(interactions: Interactions, columns: Mapping[str, TextColumn]) -> None:
    named = [dataclasses.replace(columns[name], name=name) for name in ("user", "item")]
    reject_repeats(named, _pairs(interactions), ", or duplicates='keep_last' or 'keep_first'")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
