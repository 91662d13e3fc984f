"""Padding of formed batches under other sets of batch sizes."""

import pytest

from benchmarks.padding import bucket_policies, padding_by_buckets

BUCKETS = (1, 8, 64)


def test_a_batch_is_padded_to_the_next_size_of_each_policy() -> None:
    found = padding_by_buckets([{"1": 2, "10": 1}, {"10": 1, "33": 1}], BUCKETS)
    asked = 2 * 1 + 2 * 10 + 33
    computed = {
        "as served": 2 * 1 + 3 * 64,
        "one size": 5 * 64,
        "powers of 4": 2 * 1 + 2 * 16 + 64,
        "powers of 2": 2 * 1 + 2 * 16 + 64,
        "8 equal steps": 2 * 8 + 2 * 16 + 40,
    }
    assert {name: of_policy["padding_waste"] for name, of_policy in found.items()} == {
        name: pytest.approx(1 - asked / samples) for name, samples in computed.items()
    }


@pytest.mark.parametrize("buckets", [(1,), (3,), (1, 8), (1, 8, 64), (7, 100), (1, 4096)])
def test_every_policy_holds_what_the_largest_size_holds(buckets: tuple[int, ...]) -> None:
    policies = bucket_policies(buckets)
    assert policies["as served"] == list(buckets)
    for sizes in policies.values():
        assert sizes == sorted(set(sizes))
        assert sizes[0] >= 1
        assert sizes[-1] == buckets[-1]


def test_the_policies_of_a_largest_size() -> None:
    assert bucket_policies((1, 20)) == {
        "as served": [1, 20],
        "one size": [20],
        "powers of 4": [1, 4, 16, 20],
        "powers of 2": [1, 2, 4, 8, 16, 20],
        "8 equal steps": [2, 5, 7, 10, 12, 15, 17, 20],
    }


def test_no_batch_has_no_padding_to_tell_of() -> None:
    assert padding_by_buckets([{}, {}], BUCKETS) == {}
