"""The stored contest as a Markdown table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tune_check_contest import CONTEST
from recjax.errors import UserError


def contest_table(out: Path) -> str:
    """Returns the rows as Markdown, fastest server first; raises UserError if there are none."""
    file = out / CONTEST
    if not file.is_file():
        raise UserError(f"no {file}; run benchmarks.tune_check --step=measure first")
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        metric = rows[0]["quality"]["metric"]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{file} holds no contest ({error!r}); run benchmarks.tune_check --step=measure anew"
        ) from error
    lines = [
        f"| | transforms | buckets | samples/s, p99 <= {rows[0]['p99_limit_ms']:g} ms | over the best by hand | full "
        f"batches, samples/s | over the best by hand | test {metric}, of fp32's |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row["server"]["samples_per_s"]["value"]):
        lines.append(f"| {' | '.join(_cells(row))} |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    quality, server, closed = row["quality"], row["server"], row["closed_loop"]
    best = row["is_best_by_hand"]
    share, ends = quality["test_share"], quality["test_share_ci95"]
    doubt = "" if all(server["confirmed"]) else f" ({sum(server['confirmed'])} of {len(server['confirmed'])} confirmed)"
    return [
        f"{row['role']}{', the best' if best['server'] and row['role'] == 'hand-made' else ''}",
        row["label"],
        " ".join(map(str, row["buckets"])),
        _with_interval(server["samples_per_s"], ",.0f") + doubt + (f"; {row['fault']}" if row["fault"] else ""),
        _with_interval(server["over_best_by_hand"], ".2f"),
        _with_interval(closed["samples_per_s"], ",.0f"),
        _with_interval(closed["over_best_by_hand"], ".2f"),
        "–" if share is None else f"{share:.4f}" + (" [{:.4f}, {:.4f}]".format(*ends) if ends else ""),
    ]


def _with_interval(figure: Mapping[str, float | None] | None, form: str) -> str:
    if figure is None:
        return "–"
    value, low, high = figure["value"], figure["low"], figure["high"]
    return f"{value:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")
