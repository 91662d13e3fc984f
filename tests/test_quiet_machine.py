from quiet_machine import echo_adds_s


def test_an_echo_adds_something_to_what_is_computed() -> None:
    assert 0 < echo_adds_s(1e-3) < 1
