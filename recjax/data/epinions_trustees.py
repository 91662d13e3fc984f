"""Who trusts whom on Epinions, as a set of implicit feedback in which the trusted people are the items."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions, encode_ids
from recjax.data.text_column import TextColumn, reject_repeats
from recjax.data.text_table import read_table

NAME = "epinions-trustees"

_FILES = ("epinions_train.tab", "epinions_test.tab")
_ORANGE = (("continuous\tcontinuous\tcontinuous",), ("row=1\tcol=1\tclass",))


def load(folder: Path) -> Interactions:
    """Returns 346,035 pairs of a user and somebody this user trusts, all rated 1; there are no timestamps.

    The two files travel with Orange's recommendation add-on. 4,718 users trust 36,165 people; the first file has five
    of each user's pairs, the second the others, and no pair is in both. It is not a trust graph: the files number
    those who trust and those who are trusted apart. (Read as one numbering, 3 of 100 statements would be returned,
    where Epinions' own graph has 40, and 97 users would trust themselves.)

    Raises:
      UserError: a file is missing or cannot be used.

    Source: the setting of Shi et al., "CLiMF: Learning to Maximize Reciprocal Rank with Collaborative
    Less-is-More Filtering", 2012.
    """
    require_files(NAME, folder, *_FILES)
    tables = [
        read_table(folder / file, ("user", "items", "relevance"), delimiter="\t", after_header=_ORANGE)
        for file in _FILES
    ]
    user, user_ids = encode_ids(np.concatenate([_ids(table["user"]) for table in tables]))
    item, item_ids = encode_ids(np.concatenate([_ids(table["items"]) for table in tables]))
    pairs = user.astype(np.int64) * len(item_ids) + item
    first, second = np.split(pairs, [len(tables[0]["user"])])
    for table, keys in zip(tables, (first, second), strict=True):
        table["relevance"].choices(("1",))
        reject_repeats([table["user"], table["items"]], keys)
    tables[1]["items"].check_rows(~np.isin(second, first), f"somebody whom {_FILES[0]} does not give this user")
    return Interactions(
        name=NAME,
        user=user,
        item=item,
        rating=np.ones(len(user), np.float32),
        timestamp=None,
        user_ids=user_ids,
        item_ids=item_ids,
    ).in_order()


def _ids(column: TextColumn) -> Int64[np.ndarray, "E"]:
    codes, table = column.ids(integers=True)
    return table[codes]
