"""The plans that README and docs show are the tables of the rows stored beside them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recjax.hardware.estimate import Estimate
from recjax.hardware.facts import Price
from recjax.hardware.program_costs import ProgramCosts
from recjax.hardware.topology import parse_target
from recjax.plan_table import WIDTH, plan_table
from recjax.planning import PlanRow

ROOT = Path(__file__).parents[1]


def stored_row(values: dict[str, Any]) -> PlanRow:
    row = PlanRow(
        target=parse_target(values["target"]),
        program=values["program"],
        reason=values["reason"],
        needed_bytes=values["memory_bytes"],
        samples=values["samples"],
        training_bytes=values["training_bytes"],
        mesh=values["mesh"],
        costs=values["costs"] and ProgramCosts(**values["costs"]),
        estimate=values["estimate"] and Estimate(**values["estimate"]),
        price=values["price"] and Price(**values["price"]),
        compile_s=values["compile_s"],
        compiler=values["compiler"],
    )
    assert row.to_json() == values
    return row


@pytest.mark.parametrize(
    ("plan", "pages"),
    [
        ("dlrm_v2_full", ("README.md", "docs/planning.md")),
        ("sasrec", ("docs/planning.md",)),
        ("dlrm_v2_full_sparsecore", ("docs/sparsecore.md",)),
    ],
)
def test_the_plan_on_the_page_is_the_stored_one(plan: str, pages: tuple[str, ...]) -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "plan" / f"{plan}.json").read_text())
    output = io.StringIO()
    Console(file=output, width=WIDTH, color_system=None).print(plan_table([stored_row(row) for row in rows]))
    table = "\n".join(line.rstrip() for line in output.getvalue().strip("\n").splitlines())
    for page in pages:
        assert f"```\n{table}\n```" in (ROOT / page).read_text()
