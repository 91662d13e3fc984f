"""FilmTrust: ratings of films, and who trusts whom among those who rate them."""

from pathlib import Path

from recjax.data.folders import require_files
from recjax.data.interactions import Interactions
from recjax.data.text_table import BLANKS, read_table
from recjax.data.trust import join_trust

NAME = "filmtrust"

# Orange's second and third line: the type and the role of each column.
_ORANGE = (("c\tc\tc", "continuous\tcontinuous\tcontinuous"), ("row=1\tcol=1\tclass",))


def load(folder: Path) -> Interactions:
    """Returns 35,494 ratings by 1,508 users of 2,071 films and 1,632 trust edges; there are no timestamps.

    Either `folder` holds `ratings.txt` and `trust.txt`, whose fields are separated by blanks, or `ratings.tab` and
    `trust.tab` in the format of Orange. The files have 35,497 ratings, of which 3 rate a film again and replace the
    earlier rating, and 1,853 edges, of which 221 touch one of 134 people who rated nothing; these are left out.

    Raises:
      UserError: a file is missing or cannot be used.

    Source: Guo, Zhang and Yorke-Smith, "A Novel Bayesian Similarity Measure for Recommender Systems", 2013.
    """
    if (folder / "ratings.txt").exists():
        require_files(NAME, folder, "trust.txt")
        ratings = read_table(folder / "ratings.txt", ("user", "item", "rating"), delimiter=BLANKS, header=False)
        edges = read_table(folder / "trust.txt", ("truster", "trustee", "trust"), delimiter=BLANKS, header=False)
    else:
        require_files(NAME, folder, "ratings.tab", "trust.tab")
        orange = read_table(folder / "ratings.tab", ("user", "movie", "score"), delimiter="\t", after_header=_ORANGE)
        ratings = {"user": orange["user"], "item": orange["movie"], "rating": orange["score"]}
        orange = read_table(folder / "trust.tab", ("truster", "trustee", "score"), delimiter="\t", after_header=_ORANGE)
        edges = {"truster": orange["truster"], "trustee": orange["trustee"], "trust": orange["score"]}
    return join_trust(NAME, ratings, ratings["rating"].floats(0.5, 4, step=0.5), edges)
