import pytest

from benchmarks.row_costs import model_flops_utilization


@pytest.mark.parametrize("n_devices", [1, 4])
def test_mfu_is_the_rate_of_operations_over_the_published_peak(n_devices: int) -> None:
    # A v5e does 197 T bfloat16 operations a second.
    share, reason = model_flops_utilization(1e9, "bfloat16", 19_700 * n_devices, "TPU v5 lite", n_devices)
    assert share == pytest.approx(0.1)
    assert reason is None


@pytest.mark.parametrize(
    ("kind", "dtype", "reason"),
    [
        ("Tensor streaming processor", "float32", "Tensor streaming processor is unknown: recjax/hardware/facts.toml"),
        ("TPU7x", "int8", "no published peak of v7x for products of int8"),
    ],
)
def test_what_has_no_published_peak_has_no_mfu(kind: str, dtype: str, reason: str) -> None:
    share, why = model_flops_utilization(1e9, dtype, 1000.0, kind, 1)
    assert share is None
    assert why is not None
    assert why.startswith(reason)
