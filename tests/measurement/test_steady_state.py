import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.measurement.steady_state import steady_state


@pytest.mark.parametrize(
    ("throughput", "latency_ms", "steady"),
    [
        ([100, 105, 110], [5.0, 5.0, 5.0], True),
        ([100, 105, 110.1], [5.0, 5.0, 5.0], False),
        ([100, 100, 100], [5.0, 5.4, 5.51], False),
        ([10, 20, 100, 100, 100], [50.0, 20, 5, 5, 5], True),  # what was before does not count
        ([100, 100, 100, 150], [5.0, 5, 5, 5], False),
        ([100, 100], [5.0, 5.0], False),
        ([100, 0, 100], [5.0, 5.0, 5.0], False),
    ],
)
def test_the_last_three_windows_must_agree(throughput: list[float], latency_ms: list[float], steady: bool) -> None:
    assert steady_state(throughput, latency_ms)[0] == steady


def test_the_reason_says_what_differs_by_how_much() -> None:
    _, reason = steady_state([100, 120, 100], [5.0, 5.0, 5.1])
    assert reason == "the last 3 windows reach in throughput from 100 to 120, in latency from 5 to 5.1; 10% is allowed"
    assert steady_state([100.0], [5.0])[1] == "1 windows; 3 must agree within 10%"
    assert steady_state([100, 0, 100], [5.0, 5.0, 5.0])[1] == "one of the last 3 windows answered nothing"


@given(st.lists(st.floats(1, 100), min_size=3, max_size=8), st.floats(0.01, 1000))
def test_units_and_order_do_not_matter(values: list[float], scale: float) -> None:
    first = steady_state(values, [1.0] * len(values), last_windows=len(values), tolerance=0.5)[0]
    again = steady_state([1.0] * len(values), [scale * v for v in values[::-1]], len(values), 0.5)[0]
    assert first == again or abs(max(values) / min(values) - 1.5) < 1e-9
