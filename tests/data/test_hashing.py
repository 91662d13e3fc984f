import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from plain_hashes import bucket, fmix32

from recjax.data.hashing import hash_tokens, unit_hash


def test_mixing_has_the_published_value():
    # The value that the reference implementation of MurmurHash3 gives for fmix32(1).
    assert fmix32(1) == 0x514E28B7
    assert hash_tokens(np.array([1], np.uint32), 2**31 - 1).tolist() == [1 + (0x514E28B7 * (2**31 - 2) >> 32)]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20), st.integers(2, 2**31 - 1))
def test_hashing_agrees_with_plain_python(tokens: list[int], size: int):
    ids = hash_tokens(np.array(tokens, np.uint32), size)
    assert ids.tolist() == [bucket(token, size) for token in tokens]
    assert ids.min() >= 1
    assert ids.max() < size


def test_buckets_fill_evenly():
    counts = np.bincount(hash_tokens(np.arange(200_000, dtype=np.uint32), 101), minlength=101)
    assert counts[0] == 0
    assert 1_800 < counts[1:].min() <= counts[1:].max() < 2_200  # 2,000 each, deviation 44


@given(st.integers(0, 2**40), st.integers(0, 2**31))
def test_the_hash_of_a_number_agrees_with_plain_python(number: int, seed: int):
    mask = 2**64 - 1
    mixed = (number + (seed + 1) * 0x9E3779B97F4A7C15) & mask
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & mask
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & mask
    mixed ^= mixed >> 31
    assert unit_hash(np.array([number], np.int64), seed)[0] == (mixed >> 11) / 2**53


def test_hashes_are_uniform():
    counts = np.histogram(unit_hash(np.arange(100_000), 0), bins=10, range=(0, 1))[0]
    assert 9_600 < counts.min() <= counts.max() < 10_400
