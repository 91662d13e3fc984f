"""The hashes of recjax.data.hashing in plain Python."""


def fmix32(number: int) -> int:
    """Returns MurmurHash3's final mix in plain Python."""
    number ^= number >> 16
    number = number * 0x85EBCA6B & 0xFFFFFFFF
    number ^= number >> 13
    number = number * 0xC2B2AE35 & 0xFFFFFFFF
    return number ^ number >> 16


def bucket(token: int, size: int) -> int:
    """Returns the id of a token in a table of `size` rows."""
    return 1 + (fmix32(token) * (size - 1) >> 32)
