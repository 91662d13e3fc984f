"""Numbers to buckets and to fractions: fixed hashes, the same on every machine and in every run.

Shapes: E numbers.
"""

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt32


def hash_tokens(tokens: UInt32[np.ndarray, "E"], vocab_size: int) -> Int32[np.ndarray, "E"]:
    """Returns ids in [1, vocab_size): each token's bucket, the same on every machine; 0 is left to missing ones.

    The token is mixed by a bijection of 32-bit numbers, so only the last step makes collisions, and the mixed number
    is scaled into the range by its upper bits.

    Source: Appleby, MurmurHash3 (fmix32); Lemire, Fast random integer generation in an interval (2019), for the scale.
    """
    mixed = tokens ^ (tokens >> np.uint32(16))
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    scaled = (mixed.astype(np.uint64) * np.uint64(vocab_size - 1)) >> np.uint64(32)
    return scaled.astype(np.int32) + 1


def unit_hash(numbers: Int64[np.ndarray, "E"], seed: int) -> Float64[np.ndarray, "E"]:
    """Returns a pseudo-random fraction in [0, 1) for each number, the same on every machine.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014): SplitMix64's output step.
    """
    mixed = numbers.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) / float(1 << 53)
