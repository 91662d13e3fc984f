"""Counts of the real sets, for those whose folders are on this machine; nothing of them is shipped."""

import numpy as np
import pytest

from recjax.data import epinions_trustees, filmtrust, movielens_1m, movielens_100k
from recjax.data.folders import data_folder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("reader", "counts", "scale"),
    [
        (movielens_100k, (100_000, 943, 1_682), [1, 2, 3, 4, 5]),
        (movielens_1m, (1_000_209, 6_040, 3_706), [1, 2, 3, 4, 5]),
        (filmtrust, (35_494, 1_508, 2_071), [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]),
        (epinions_trustees, (346_035, 4_718, 36_165), [1]),
    ],
)
def test_counts(reader, counts: tuple[int, int, int], scale: list[float]):
    folder = data_folder(reader.NAME)
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    read = reader.load(folder)
    assert (len(read), read.n_users, read.n_items) == counts
    assert np.unique(read.rating).tolist() == scale
    assert np.bincount(read.user).min() > 0
    assert len(np.unique(read.user.astype(np.int64) * read.n_items + read.item)) == len(read)
    if reader is filmtrust:
        assert read.trust.shape == (2, 1_632)
    if reader is movielens_100k and read.knowledge is not None:
        graph = read.knowledge
        assert (len(graph.head), graph.n_entities, graph.n_relations) == (91_631, 34_712, 24)
        assert np.isnan(read.item_features["year"]).sum() == 1
