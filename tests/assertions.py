"""What several test files assert in the same way."""


def assert_one_line(error: str, *parts: str) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    for part in parts:
        assert part in error
