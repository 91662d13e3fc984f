import dataclasses
import io

import pytest
from rich.console import Console

from recjax.hardware.compile_absent import Answer, Program
from recjax.hardware.facts import Price
from recjax.hardware.program_costs import ProgramCosts
from recjax.hardware.topology import parse_target
from recjax.plan_table import COUNT, TIME, WIDTH, plan_table, quantity
from recjax.planning import PlanRow, plan_row

COSTS = ProgramCosts(
    argument_bytes=2 << 30,
    output_bytes=0,
    alias_bytes=0,
    temporary_bytes=1 << 29,
    code_bytes=0,
    flops={"float32": 1.97e12},
    xla_flops=None,
    traffic_bytes=4_000_000_000,
    collective_bytes={"all-reduce": 123_456_789, "ragged-all-to-all": 1_000_000},
    loops_counted_once=False,
)
PRICE = Price(usd_per_chip_hour=1.2, provider="A cloud", region="somewhere", date="today")


def row(name: str, program: Program, price: Price | None = None, **changes: object) -> PlanRow:
    costs = dataclasses.asdict(dataclasses.replace(COSTS, **changes))  # type: ignore[arg-type]
    return plan_row(parse_target(name), program, Answer(costs=costs, samples=65_536, mesh={"data": 16}), price)


def printed(*rows: PlanRow) -> str:
    output = io.StringIO()
    Console(file=output, width=WIDTH, color_system=None).print(plan_table(rows))
    text = output.getvalue()
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "…" not in text
    return text


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_row_says_all_that_is_asked_of_a_plan() -> None:
    text = printed(row("v5e:4x4", "train", PRICE))
    for part in (
        *("v5e:4x4", "16 devices", "train", "65,536", "2.50 of 15.75 GiB", "fits"),
        *("flops 1.97 T", "memory 4 GB", "all-reduce 123 MB", "ragged-all-to-all 1 MB"),
        *("10 ms", "6.55 M/s", "$0.000814/M"),
    ):
        assert part in text
    assert "by compute" in text
    assert "v5e: $1.2 a chip and hour, A cloud, somewhere, today" in text
    assert "Estimates, not measurements" in text
    assert "*" not in text


def test_what_does_not_fit_is_loud() -> None:
    assert "DOES NOT FIT" in printed(row("v5e:4x4", "train", argument_bytes=20 << 30))


def test_a_training_that_does_not_fit_though_its_step_does() -> None:
    answer = Answer(costs=dataclasses.asdict(COSTS), samples=64, mesh={"data": 16}, training_bytes=14 << 30)
    text = printed(plan_row(parse_target("v5e:4x4"), "train", answer, None))
    assert "2.50 of 15.75 GiB" in text
    assert "in all 14.00 GiB" in text
    assert "DOES NOT FIT" not in text
    more = plan_row(parse_target("v5e:4x4"), "train", dataclasses.replace(answer, training_bytes=16 << 30), None)
    assert more.to_json()["training_bytes"] == 16 << 30
    assert more.to_json()["fits"] is False
    text = printed(more)
    assert "fits" in text
    assert "in all 16.00 GiB" in text
    assert "DOES NOT FIT" in text
    assert "in all: what `recjax train` holds" in text


def test_what_does_not_compile_says_why_and_markup_stays_text() -> None:
    reason = "libtpu is not installed: pip install -e '.[tpu]' in the repository"
    text = printed(plan_row(parse_target("v6e:4x4"), "serve", Answer(reason=reason), None))
    assert "'.[tpu]'" in text
    assert "does not compile" in text
    short = Answer(reason="too much", needed_bytes=20 << 30)
    assert "20.00 of 15.75 GiB" in printed(plan_row(parse_target("v5e:4x4"), "serve", short, None))


def test_missing_figures_have_their_reasons() -> None:
    text = words(printed(row("v7x:2x2x1", "serve", flops={"int8": 1e12})))
    assert "no published peak of v7x for products of int8" in text
    assert "no price of v7x in the price file" in text
    assert "no price" in text


def test_tables_on_sparsecores_have_memory_and_no_time() -> None:
    text = words(printed(row("v6e:4x4", "sparsecore", PRICE, traffic_bytes=None, collective_bytes=None)))
    assert "2.50 of 31.24 GiB flops 1.97 T – –" in text
    assert "memory –" in text
    assert "what SparseCores read, write and send" in text


def test_loops_that_count_once_are_marked() -> None:
    text = printed(row("v5e:4x4", "train", loops_counted_once=True))
    assert "memory 4 GB*" in text
    assert "* some loop's length" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (5, "5"), (999, "999"), (1234, "1.23 k"), (2.5e15, "2.5 P"), (0.004, "0.004")]
)
def test_counts(value: float, text: str) -> None:
    assert quantity(value, units=COUNT) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 us"), (1e-9, "1 ns"), (1e-11, "0.01 ns")]
)
def test_times(value: float, text: str) -> None:
    assert quantity(value, units=TIME) == text
