import dataclasses
import json

import pytest

from recjax import planning
from recjax.errors import UserError
from recjax.hardware.compile_absent import Answer, Request
from recjax.hardware.facts import Price
from recjax.hardware.program_costs import ProgramCosts
from recjax.hardware.topology import parse_target
from recjax.planning import parse_targets, plan, plan_row

COSTS = ProgramCosts(
    argument_bytes=1_000,
    output_bytes=100,
    alias_bytes=50,
    temporary_bytes=200,
    code_bytes=10,
    flops={"float32": 197e9},
    xla_flops=2e11,
    traffic_bytes=819_000,
    collective_bytes={"all-reduce": 1_000},
    loops_counted_once=False,
)
COMPILED = Answer(
    costs=dataclasses.asdict(COSTS), samples=64, mesh={"data": 16, "model": 1}, compile_s=1.5, compiler="jax 0"
)
PRICE = Price(usd_per_chip_hour=3.6)


def test_hardware_is_listed_with_commas() -> None:
    assert [target.name for target in parse_targets("v5e:4x4, h200:8,")] == ["v5e:4x4", "h200:8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--devices is ''; allowed: a list of hardware"),
        ("v5e:4x4,v5e:4x4", "--devices names v5e:4x4 more than once"),
        ("v5e:4x4,v9:2x2", "unknown accelerator 'v9'"),
    ],
)
def test_unusable_lists(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_targets(text)


def test_a_row_of_a_program_that_compiles() -> None:
    row = plan_row(parse_target("v5e:4x4"), "train", COMPILED, PRICE)
    assert row.reason is None
    assert row.needed_bytes == 1_000 + 100 - 50 + 200 + 10
    assert row.estimate is not None
    assert row.estimate.step_s == pytest.approx(1e-3)
    values = row.to_json()
    assert json.loads(json.dumps(values)) == values
    assert values["estimated"] is True
    assert (values["n_chips"], values["n_devices"], values["compiles"]) == (16, 16, True)
    assert values["costs"]["flops"] == {"float32": 197e9}
    assert values["price"]["usd_per_chip_hour"] == 3.6
    assert values["memory_bytes"] == 1_260
    assert values["capacity_bytes"] == int(15.75 * (1 << 30))


def test_a_row_of_a_program_that_does_not_compile_has_nothing_but_the_reason() -> None:
    row = plan_row(parse_target("v7x:2x2x1"), "serve", Answer(reason="no", needed_bytes=7), None)
    values = row.to_json()
    assert values["compiles"] is False
    assert values["n_devices"] == 8
    known = {name for name, value in values.items() if value is not None}
    assert known == {
        *("estimated", "target", "chip", "n_chips", "n_devices", "program", "compiles", "reason"),
        *("memory_bytes", "capacity_bytes"),
    }


def test_every_program_on_every_target_in_order_whatever_becomes_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compiled(request: Request) -> Answer:
        asked.append(request)
        return Answer(reason="broken") if request.target == "v6e:2x2" else COMPILED

    monkeypatch.setattr(planning, "compile_in_child", compiled)
    notes: list[str] = []
    rows = plan(
        "mine.py",
        parse_targets("v5e:4x4,v6e:2x2"),
        ("train", "serve"),
        overrides=("model.embedding_dim=8",),
        mesh={"data": -1},
        batch_size=128,
        prices={"v5e": PRICE},
        advance=notes.append,
    )
    assert [(row.target.name, row.program, row.reason) for row in rows] == [
        ("v5e:4x4", "train", None),
        ("v5e:4x4", "serve", None),
        ("v6e:2x2", "train", "broken"),
        ("v6e:2x2", "serve", "broken"),
    ]
    assert rows[0].price == PRICE
    assert sorted(notes)[-1] == "v6e:2x2 train: does not compile"
    expected = {"config": "mine.py", "overrides": ("model.embedding_dim=8",), "mesh": {"data": -1}, "batch_size": 128}
    for request in asked:
        assert expected.items() <= dataclasses.asdict(request).items()
