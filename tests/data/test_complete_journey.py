from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recjax.data.complete_journey import NAME, load
from recjax.data.folders import data_folder
from recjax.errors import UserError

NOON = datetime(2017, 1, 1, 12)
LATER = datetime(2017, 1, 2)
TEXTS = ("department", "brand", "product_category", "product_type")
HOUSEHOLD = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")


def write(folder: Path, changes: dict[str, dict[str, Any]] | None = None) -> Path:
    """Writes the three files with columns replaced by `changes`, or left out where it says None."""
    tables: dict[str, dict[str, Any]] = {
        "transactions": {
            "household_id": [900, 2, 900, 2, 900],
            "store_id": [1, 1, 1, 1, 1],
            "product_id": [77, 77, 5, 77, 6],
            "quantity": [1, 89_638, 2, 1, 0],
            "transaction_timestamp": pa.array([LATER, NOON, NOON, LATER, NOON], pa.timestamp("ns")),
        },
        "products": {
            "product_id": [5, 6],
            **{key: ["GROCERY", "PASTRY"] for key in TEXTS},
            "product_type": pa.array([None, "ROLLS"], pa.string()),
        },
        "demographics": {
            "household_id": [900],
            **{key: ["2"] for key in HOUSEHOLD},
            "age": ["65+"],
            "marital_status": pa.array([None], pa.string()),
        },
    }
    for name, columns in tables.items():
        columns |= (changes or {}).get(name, {})
        pq.write_table(
            pa.table({key: value for key, value in columns.items() if value is not None}), folder / f"{name}.parquet"
        )
    return folder


def test_first_purchases_with_their_features(tmp_path: Path):
    read = load(write(tmp_path))
    noon, later = 1_483_272_000, 1_483_315_200
    assert read.name == "completejourney-simulated"
    np.testing.assert_array_equal(read.user_ids, np.array([2, 900]), strict=True)
    np.testing.assert_array_equal(read.item_ids, np.array([5, 77]), strict=True)  # of 6, none was bought
    np.testing.assert_array_equal(read.user, np.array([0, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.item, np.array([1, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read.rating, np.ones(3, np.float32), strict=True)
    np.testing.assert_array_equal(read.timestamp, np.array([noon, noon, later]), strict=True)
    assert {name: column.tolist() for name, column in read.item_features.items()} == {
        "department": ["GROCERY", ""],
        "brand": ["GROCERY", ""],
        "product_category": ["GROCERY", ""],
        "product_type": ["", ""],
    }
    assert {name: column.tolist() for name, column in read.user_features.items()} == {
        "age_group": ["", "65+"],
        "income": ["", "2"],
        "home_ownership": ["", "2"],
        "marital_status": ["", ""],
        "household_size": ["", "2"],
        "household_comp": ["", "2"],
        "kids_count": ["", "2"],
    }


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_moments_of_every_unit_become_seconds(tmp_path: Path, unit: str):
    moments = pa.array([LATER, NOON, NOON, LATER, NOON], pa.timestamp(unit))
    read = load(write(tmp_path, {"transactions": {"transaction_timestamp": moments}}))
    assert read.timestamp is not None
    assert read.timestamp.tolist() == [1_483_272_000, 1_483_272_000, 1_483_315_200]


def test_texts_encoded_as_dictionaries_are_read(tmp_path: Path):
    brands = pa.array(["Private", "National"]).dictionary_encode()
    read = load(write(tmp_path, {"products": {"brand": brands}}))
    assert read.item_features["brand"].tolist() == ["Private", ""]


MOMENTS = pa.timestamp("us")
NAMES = "household_id, product_id, quantity, transaction_timestamp"
SEEN = "household_id, store_id, product_id, quantity, transaction_timestamp"


@pytest.mark.parametrize(
    ("file", "columns", "message"),
    [
        (
            "transactions",
            {"quantity": None},
            f": no column 'quantity' in {SEEN.replace(', quantity', '')}; expected {NAMES}",
        ),
        (
            "transactions",
            {"household_id": ["900"] * 5},
            ", column 'household_id': values of type string; expected integers",
        ),
        ("transactions", {"quantity": [1.0] * 5}, ", column 'quantity': values of type double; expected integers"),
        (
            "transactions",
            {"transaction_timestamp": [1] * 5},
            ", column 'transaction_timestamp': values of type int64; expected moments",
        ),
        (
            "transactions",
            {"household_id": [1, 2, -3, 4, 5]},
            ":3, column 'household_id': -3; expected an integer from 0 to 2147483647",
        ),
        (
            "transactions",
            {"product_id": [1, 2, 3, 4, 2**40]},
            ":5, column 'product_id': 1099511627776; expected an integer from 0 to 2147483647",
        ),
        (
            "transactions",
            {"product_id": [1, None, 3, None, 4]},
            ":2, column 'product_id': nothing; expected an integer from 0 to 2147483647",
        ),
        (
            "transactions",
            {"quantity": [1, 1, 1, -1, 1]},
            ":4, column 'quantity': -1; expected an integer from 0 to 2147483647",
        ),
        (
            "transactions",
            {"quantity": [0] * 5},
            ", column 'quantity': 0 in every row; expected purchases of 1 and more",
        ),
        (
            "transactions",
            {"transaction_timestamp": pa.array([NOON, NOON, None, NOON, NOON], MOMENTS)},
            ":3, column 'transaction_timestamp': nothing; expected a moment",
        ),
        (
            "transactions",
            {"transaction_timestamp": pa.array([NOON, NOON, datetime(1969, 12, 31), NOON, NOON], MOMENTS)},
            ":3, column 'transaction_timestamp': -86400 s from 1970; expected a moment of 1970 to 2286",
        ),
        (
            "transactions",
            {"transaction_timestamp": pa.array([0, 10**12, 0, 0, 0], pa.timestamp("s"))},
            ":2, column 'transaction_timestamp': 1000000000000 s from 1970; expected a moment of 1970 to 2286",
        ),
        ("products", {"product_id": [5, 5]}, ":2, column 'product_id': 5; expected each once"),
        ("products", {"brand": [1, 2]}, ", column 'brand': values of type int64; expected texts"),
        (
            "products",
            {"product_id": [None, 5]},
            ":1, column 'product_id': nothing; expected an integer from 0 to 2147483647",
        ),
        (
            "demographics",
            {name: [] for name in ("household_id", *HOUSEHOLD)}
            | {"household_id": pa.array([], pa.int64())}
            | {name: pa.array([], pa.string()) for name in HOUSEHOLD},
            f": has no row; expected rows of household_id, {', '.join(HOUSEHOLD)}",
        ),
        ("demographics", {"age": [65]}, ", column 'age': values of type int64; expected texts"),
    ],
)
def test_a_table_of_other_values_is_refused(tmp_path: Path, file: str, columns: dict[str, Any], message: str):
    write(tmp_path, {file: columns})
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == f"{tmp_path}/{file}.parquet{message}"


def test_other_than_parquet_is_refused(tmp_path: Path):
    (write(tmp_path) / "products.parquet").write_text("product_id,brand\n5,National\n")
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/products.parquet: cannot be read as Parquet (Parquet magic bytes not found in footer. Either the "
        "file is corrupted or this is not a parquet file.); expected the file as published"
    )


def test_a_missing_file_is_named(tmp_path: Path):
    (write(tmp_path) / "demographics.parquet").unlink()
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"completejourney: {tmp_path}/demographics.parquet is not there; "
        "python -m tools.fetch_data completejourney brings it or says how"
    )


@pytest.mark.slow
def test_counts_of_the_published_files():
    folder = data_folder(NAME)
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    read = load(folder)
    assert (len(read), read.n_users, read.n_items) == (863_378, 2_469, 68_260)
    assert len(np.unique(read.user.astype(np.int64) * read.n_items + read.item)) == len(read)
    assert (read.user_features["age_group"] != "").sum() == 801
    assert (read.item_features["department"] == "").sum() == 3
