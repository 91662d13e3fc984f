"""The page of published results: each stored run's own table, with the command that made it."""

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from benchmarks.report import print_table
from benchmarks.report_contents import heading_facts
from benchmarks.results import Row, read_rows
from recjax.errors import UserError

TABLE_WIDTH = 140
LINK = "../../benchmarks/results"  # from the page to the stored rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """What is shown of stored results.

    Attributes:
      title: of the section.
      path: below the folder of stored rows: a suite's run, or a table that another command wrote beside its rows.
      command: that made it.
      words: what to know before reading the table.
    """

    title: str
    path: str
    command: str
    words: str


QUICK = Section(
    title="The quick suite",
    path="quick-intel-xeon-amx",
    command="make bench PYTHON=python3.12",
    words="Two models under six chains of transforms, in every scenario; three fresh processes measure each row.",
)
PICTURES = (
    ("The report: summary, and SASRec's plots", "report.png"),
    ("On a dark screen: DLRM-DCNv2", "report-dark.png"),
    ("On a phone", "report-phone.png"),
)
WORKLOADS = (
    Section(
        title="MLPerf-like DLRMv2",
        path="dlrm-v2-like-intel-xeon-amx",
        command="python -m benchmarks.run --suite=dlrm_v2_like",
        words="Tables at a hundredth of MLCommons', queries of 100 to 700 samples. No row of it is an official result "
        "([what is MLCommons' and what is not](../workloads.md)).",
    ),
    Section(
        title="MLPerf-like DLRMv3",
        path="dlrm-v3-like-intel-xeon-amx",
        command="python -m benchmarks.run --suite=dlrm_v3_like",
        words="A history of up to 256 items, a 32nd of MLCommons', with 2,048 candidates is one sample; tables are at "
        "1/10,000. MLCommons' limit is for accelerators: what does not hold it here is marked, with the reason. No row "
        "of it is an official result.",
    ),
)
TABLES = (
    Section(
        title="The same models in other libraries",
        path="peers/peers.md",
        command="python -m benchmarks.peers --quiet=60",
        words="Equal weights, requests and answers; the libraries take turns ([how](../peers.md)).",
    ),
    Section(
        title="Ten repeats of one row",
        path="repeat-check/repeats.md",
        command="python -m benchmarks.repeat_check",
        words="How often the 95% interval that a row reports covers the median of all ten repeats together.",
    ),
    Section(
        title="Ten repeats of one row on a disturbed host",
        path="repeat-check-disturbed/repeats.md",
        command="python -m benchmarks.repeat_check",
        words="Another processor of that name, whose speed changes from window to window. Intervals are wider there.",
    ),
    Section(
        title="Two runs of one revision",
        path="compare-check/first-second.md",
        command="python -m benchmarks.compare_check",
        words="Nothing has changed between them: `compare` should call every row the same ([how](../compare.md)).",
    ),
    Section(
        title="A slowdown of a tenth",
        path="compare-check/first-slowed.md",
        command="python -m benchmarks.compare_check",
        words="The second run was slowed by 10% on purpose: `compare` should call every row slower.",
    ),
)
OTHERS = """## More, each with its own page

- [What every transform buys](../transforms.md), four models under 44 chains
- [`recjax tune`](../tune.md) against the best row made by hand
- [Quality of every model](../quality.md) against published figures
- [Large tables](../large_tables.md), [planning against measuring](../planning.md)
- [All stored runs](../../benchmarks/results/README.md), also of other processors; [their history](history.png), by
  `python -m benchmarks.history`

No GPU and no TPU was at hand: there is no figure from one. The commands are the same
(`make bench DEVICE=gpu`, `make bench DEVICE=tpu`)."""


def render(stored: Path) -> str:
    """Returns the page.

    Args:
      stored: the folder of stored rows.

    Raises:
      UserError: a run or a table is missing there, or cannot be read.
    """
    first = _rows(stored / QUICK.path)[0]
    parts = [
        "# Results",
        "Written by `python -m benchmarks.results_page` from the stored rows; no measured figure is typed in. Tables "
        "are those that each command prints at its end; [rows.md](../rows.md) says what the fields mean.",
        f"Machine: {heading_facts([first])['Device']}, a virtual machine on a shared host, no accelerator; "
        f"{_software(first)}.",
        *_suite(stored, QUICK),
        "The run's own report is [report.html](report.html), one file that opens offline "
        "([what each plot says](../report.md)). Pictures of it, by `make screenshots`:",
        *(f"![{title}]({file})" for title, file in PICTURES),
        *(part for suite in WORKLOADS for part in _suite(stored, suite)),
        *(part for table in TABLES for part in _table(stored, table)),
        OTHERS,
    ]
    return "\n\n".join(parts) + "\n"


def _suite(stored: Path, suite: Section) -> Iterable[str]:
    rows = _rows(stored / suite.path)
    text = io.StringIO()
    print_table(rows, Console(file=text, width=TABLE_WIDTH, force_terminal=False, no_color=True))
    lines = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
    facts = heading_facts(rows)
    folder = f"{LINK}/{suite.path}"
    yield f"## {suite.title}"
    commit = rows[0].environment["git"]["commit"][:7]
    took = f"{facts['First to last row']} from the first row to the last"
    yield f"{suite.words}\n{facts['Started']}, {took}, at commit `{commit}`, by"
    yield f"    {suite.command}"
    yield f"```\n{lines}\n```"
    yield (
        f"[Every row with every figure]({folder}/report.md), [as JSON]({folder}/results.jsonl), "
        f"[as CSV]({folder}/results.csv)."
    )


def _table(stored: Path, table: Section) -> Iterable[str]:
    try:
        text = (stored / table.path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"no table at {stored / table.path} ({error.strerror}); run {table.command}") from error
    body = text.partition("\n")[2] if text.startswith("# ") else text
    before, bar, rest = body.partition("\n| ")
    yield f"## {table.title}"
    yield f"{table.words} [Rows and table]({LINK}/{table.path.partition('/')[0]}), by"
    yield f"    {table.command}"
    yield before.strip()
    yield f"<details><summary>The table</summary>\n\n{(bar + rest).strip()}\n\n</details>"


def _rows(folder: Path) -> list[Row]:
    path = folder / "results.jsonl"
    if not path.is_file():
        raise UserError(f"there are no rows at {path}; run the suite and keep its results there")
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} is empty; run the suite and keep its results there")
    return rows


def _software(row: Row) -> str:
    versions = row.environment["versions"]
    return ", ".join(f"{name} {versions[name]}" for name in ("python", "jax", "jaxlib", "flax", "aqtp", "numpy"))
