import pytest

from recjax.errors import UserError
from recjax.hardware.facts import chips, load_prices
from recjax.tuning.goal import Goal, hourly_price, parse_bytes, parse_queries, parse_seconds


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("15M", 900)])
def test_a_time_in_seconds(text: str, seconds: float) -> None:
    assert parse_seconds("--budget", text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("2GB", 2 * 10**9), ("1.5 MiB", 3 * 2**19), ("512mb", 512 * 10**6)]
)
def test_a_size_in_bytes(text: str, size: int) -> None:
    assert parse_bytes("--memory", text) == size


@pytest.mark.parametrize("text", ["", "m", "-5m", "15 days", "0s", "0", "1e3", "nan", "9" * 400])
def test_no_time_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^--budget is .*; allowed: a time above 0, as 90s, 15m or 2h$"):
        parse_seconds("--budget", text)


@pytest.mark.parametrize("text", ["5m", "0GB", "9" * 400, "9" * 305 + "GiB"])
def test_no_size_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=f"--memory is '{text}'; allowed: a size above 0"):
        parse_bytes("--memory", text)


def test_queries() -> None:
    assert parse_queries("64").in_words() == "64 a query, uniform rows"
    assert parse_queries("dlrm_v2").mean_samples == 270
    for text in ("0", "many", "-1", "1.5"):
        with pytest.raises(UserError, match="--queries is"):
            parse_queries(text)


def test_the_price_of_a_million_samples_by_hand() -> None:
    goal = Goal(p99_ms=20.0, usd_per_hour=3.6)  # a tenth of a cent a second
    assert goal.price(1000.0, devices=1) == pytest.approx(1.0)  # a thousand seconds
    assert goal.price(1000.0, devices=4) == pytest.approx(4.0)
    assert goal.price(0.0, devices=1) is None
    assert Goal(p99_ms=20.0).price(1000.0, devices=1) is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"p99_ms": 0.0}, "--p99-ms is 0; allowed: > 0"),
        ({"p99_ms": float("nan")}, "--p99-ms is nan"),
        ({"p99_ms": float("inf")}, "--p99-ms is inf; allowed: > 0 and finite"),
        ({"memory_bytes": 0}, "--memory is 0"),
        ({"quality_floor": 0.0}, "--quality-floor is 0"),
        ({"quality_floor": 99.0}, "--quality-floor is 99; allowed: a share of fp32's quality, above 0 and at most 1"),
        ({"usd_per_million": -1.0, "usd_per_hour": 1.0}, "--price is -1"),
        ({"usd_per_million": float("inf"), "usd_per_hour": 1.0}, "--price is inf; allowed: > 0 and finite"),
        ({"usd_per_hour": 0.0}, "--usd-per-hour is 0"),
        ({"usd_per_hour": float("inf")}, "--usd-per-hour is inf; allowed: > 0 and finite"),
        ({"usd_per_million": 1.0}, "give --usd-per-hour"),
    ],
)
def test_a_goal_that_cannot_be_is_one_line(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Goal(**{"p99_ms": 20.0, **wrong})  # type: ignore[arg-type]


def test_the_hour_of_a_known_chip_is_that_of_the_price_file_and_a_given_one_counts_more() -> None:
    kind = chips()["h100"].device_kinds[0]
    assert hourly_price(kind, None) == load_prices()["h100"].usd_per_chip_hour
    assert hourly_price(kind, 1.25) == 1.25
    assert hourly_price("cpu", None) is None
