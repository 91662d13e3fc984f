import numpy as np
import pytest

from recjax.data.movies import list_column, split_genres, split_titles


@pytest.mark.parametrize(
    ("text", "title", "year"),
    [
        ("Heat (1995)", "Heat", 1995),
        ("Heat (1995) ", "Heat", 1995),
        (
            "City of Lost Children (Cité des enfants perdus) (1995)",
            "City of Lost Children (Cité des enfants perdus)",
            1995,
        ),
        ("Seven (a.k.a. Se7en) (1995)", "Seven (a.k.a. Se7en)", 1995),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("(2046) (2004)", "(2046)", 2004),
        ("Fawlty Towers (1975-1979)", "Fawlty Towers", 1975),
        ("Death Note (2006–2007)", "Death Note", 2006),
        ("Sons of Anarchy (2008- )", "Sons of Anarchy", 2008),
        ("Killing, The (2011-)", "Killing, The", 2011),
        ("Land Before Time III (1995) (V)", "Land Before Time III", 1995),
        ("unknown", "unknown", np.nan),
        ("Stranger (1994) Returns", "Stranger (1994) Returns", np.nan),
        ("Big Bang Theory, The (19)", "Big Bang Theory, The (19)", np.nan),
        ("", "", np.nan),
    ],
)
def test_year_is_taken_from_the_end_of_the_title(text: str, title: str, year: float):
    titles, years = split_titles([text])
    assert titles.tolist() == [title]
    np.testing.assert_array_equal(years, np.array([year], np.float32), strict=True)


def test_genres_are_lists():
    column = split_genres(["Drama|War", "(none)", "Drama", ""], "|", ("(none)",))
    assert column.tolist() == [["Drama", "War"], [], ["Drama"], []]


def test_lists_of_one_length_stay_lists():
    column = list_column([["a", "b"], ["c", "d"]])
    assert column.shape == (2,)
    assert column[1] == ["c", "d"]
