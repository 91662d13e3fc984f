import numpy as np
import pytest
import scipy.stats

from recjax.errors import UserError
from recjax.load.queries import QueryMix, draw_queries


def test_rows_are_uniform_by_default() -> None:
    queries = draw_queries(QueryMix(samples=3), 10_000, 50, seed=0)
    assert (queries.sizes == 3).all()
    assert (queries.rows.dtype, queries.sizes.dtype) == (np.int32, np.int32)
    assert scipy.stats.chisquare(np.bincount(queries.rows, minlength=50)).pvalue > 1e-3


def test_sizes_of_dlrm_v2_have_its_quantiles() -> None:
    mix = QueryMix(sizes="dlrm_v2")
    queries = draw_queries(mix, 20_000, 10, seed=0)
    assert len(queries.rows) == queries.sizes.sum()
    assert mix.mean_samples == 270
    assert queries.sizes.mean() == pytest.approx(270, rel=0.02)
    assert np.percentile(queries.sizes, 90, method="inverted_cdf") in (500, 600)  # 18 of 20 values are at most 500
    assert set(np.unique(queries.sizes)) == {100, 200, 300, 400, 500, 600, 700}
    assert np.mean(queries.sizes == 200) == pytest.approx(12 / 20, abs=0.02)


def test_zipf_rows_fall_with_their_rank() -> None:
    n, rows, exponent = 200_000, 100, 1.2
    queries = draw_queries(QueryMix(popularity="zipf", exponent=exponent), n, rows, seed=0)
    counts = np.sort(np.bincount(queries.rows, minlength=rows))[::-1]
    shares = np.arange(1, rows + 1) ** -exponent
    expected = n * shares / shares.sum()
    np.testing.assert_allclose(counts[:10], expected[:10], rtol=0.05)
    assert np.bincount(queries.rows).argmax() != 0  # the popular row is not simply the first


def test_an_exponent_of_zero_is_uniform() -> None:
    queries = draw_queries(QueryMix(popularity="zipf", exponent=0.0), 50_000, 20, seed=1)
    assert scipy.stats.chisquare(np.bincount(queries.rows, minlength=20)).pvalue > 1e-3


def test_the_seed_decides() -> None:
    mix = QueryMix(sizes="dlrm_v2", popularity="zipf")
    first, again, other = (draw_queries(mix, 50, 1000, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert len(first.rows) != len(other.rows) or not np.array_equal(first.rows, other.rows)


def test_a_mix_says_what_it_is() -> None:
    assert QueryMix().in_words() == "1 a query, uniform rows"
    mix = QueryMix(sizes="dlrm_v2", popularity="zipf", exponent=1.1)
    assert mix.in_words() == "100 to 700 a query (DLRMv2's quantiles), Zipf rows (exponent 1.1)"


def test_impossible_mixes_are_refused() -> None:
    with pytest.raises(UserError, match="samples of a query is 0"):
        QueryMix(samples=0)
    with pytest.raises(UserError, match="popularity is -1"):
        QueryMix(exponent=-1.0)
