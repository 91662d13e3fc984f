import numpy as np
import pytest
from simulated_systems import misses, only_later

from recjax.load.window import Window

EXPECTED_MS = np.linspace(10, 50, 200)


@pytest.mark.parametrize(
    ("measured", "slower", "lag_ms", "explained"),
    [
        (1.03, 1.02, 0.0, True),
        (1.03, 1.0, 0.0, False),  # the machine adds nothing
        (1.10, 1.02, 0.0, False),  # more than the machine adds
        (0.90, 1.02, 0.0, False),
        (1.03, 1.02, 5.0, False),  # the sender is late
    ],
)
def test_a_slower_machine_explains_what_is_later_by_as_much_and_no_more(
    measured: float, slower: float, lag_ms: float, explained: bool
) -> None:
    window = Window(
        latency_ms=measured * EXPECTED_MS,
        parts_ms={"send_lag": np.full(200, lag_ms)},
        samples=200,
        padded_samples=200,
        batch_samples=np.ones(200, np.int64),
        duration_s=1.0,
    )
    missed = misses(window, EXPECTED_MS, 0.02)
    assert missed
    assert only_later(window, missed, slower * EXPECTED_MS, 0.02) is explained
