"""Epinions: ratings of products, and who trusts whom among the reviewers."""

from pathlib import Path

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.text_table import BLANKS, read_table
from recjax.data.trust import join_trust

NAME = "epinions"


def load(folder: Path) -> Interactions:
    """Returns the ratings of `ratings_data.txt` and the trust edges of `trust_data.txt`; there are no timestamps.

    The files are said to hold 664,824 ratings of 139,738 products by 40,163 of the 49,290 users, and 487,181 trust
    statements. Fields are separated by blanks: user, item, rating; truster, trustee, 1. Edges that touch someone
    without ratings are left out.

    `epinions_train.tab` and `epinions_test.tab`, which travel with Orange's recommendation add-on, are another set
    and no source of edges: see `recjax.data.epinions_trustees`.

    Raises:
      UserError: a file is missing or cannot be used.

    Source: Massa and Avesani, "Trust-aware Recommender Systems", 2007.
    """
    require_files(NAME, folder, "ratings_data.txt", "trust_data.txt")
    ratings = read_table(folder / "ratings_data.txt", ("user", "item", "rating"), delimiter=BLANKS, header=False)
    edges = read_table(folder / "trust_data.txt", ("truster", "trustee", "trust"), delimiter=BLANKS, header=False)
    return join_trust(NAME, ratings, ratings["rating"].floats(1, 5, step=1), edges)
