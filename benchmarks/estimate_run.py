"""The cases of a suite compiled for hardware that is not here, one program after another: rows of estimates."""

import datetime
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.estimates import EstimatedRow, print_estimates, render_estimates
from benchmarks.report import wide_console
from benchmarks.results import keep_earlier_run
from benchmarks.stored import append_stored
from benchmarks.suite import Case, Source
from recjax.command_line import INTERRUPTED, UNUSABLE, make_output_folder
from recjax.config import to_dict
from recjax.data.sources import check_source
from recjax.errors import UserError
from recjax.hardware.device import EXAMPLES
from recjax.hardware.facts import Chip, load_prices
from recjax.hardware.software import describe_software
from recjax.hardware.topology import Target
from recjax.planning import PROGRAMS, PlanRow, parse_targets, plan
from recjax.progress import console, stage
from recjax.transforms.protocol import Chain


def targets_of(device: str) -> list[Target]:
    """Returns the hardware that --device names together with --estimate.

    Raises:
      UserError: a CPU, or what is no hardware.
    """
    if device == "cpu":
        raise UserError(
            "--estimate is for hardware that is not here; give --device=tpu, --device=gpu or a list, as v6e:2x2,h200:1"
        )
    return parse_targets(EXAMPLES.get(device, device))


def run_estimate(source: Source, targets: Sequence[Target], folder: Path) -> int:
    """Compiles the suite for the targets, writes rows as they come, and returns the exit code.

    It is that of unusable input if nothing compiles; every row then says why.

    Raises:
      UserError: the suite, its data or the folder cannot be had.
    """
    suite = source.load()
    for case in suite.cases:
        check_source(case.experiment.dataset)
        if case.experiment.parallel.strategy == "pmap":
            raise UserError("estimates are of programs on a mesh; leave --parallel out, or set it to pjit")
    make_output_folder(folder)
    now = datetime.datetime.now(datetime.UTC)
    run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    environment, prices = describe_software(), load_prices()
    path, rows, code = folder / "results.jsonl", list[EstimatedRow](), 0
    n_programs = sum(len(case.variants) for case in suite.cases) * len(targets) * len(PROGRAMS["both"])
    try:
        with (
            tempfile.TemporaryDirectory() as configs,
            stage(f"{suite.name}: compiling for absent hardware", n_programs) as advance,
        ):
            for case_index, case in enumerate(suite.cases):
                for variant_index, variant in enumerate(case.variants):
                    config = Path(configs) / f"{case_index}_{variant_index}.py"
                    config.write_text(source.config_of(case_index, variant_index))
                    parallel = case.experiment.parallel
                    planned = plan(
                        str(config),
                        targets,
                        PROGRAMS["both"],
                        mesh={"data": parallel.data, "model": parallel.model},
                        prices=prices,
                        advance=advance,
                    )
                    if not rows:
                        keep_earlier_run(folder, path.name, "report.md", "report.html", "results.csv", "samples.npz")
                    for of_program in planned:
                        rows.append(
                            EstimatedRow(
                                run_id=run_id,
                                started_at=now.isoformat(timespec="seconds"),
                                suite=suite.name,
                                **_identity(case, variant, of_program),
                                environment=environment,
                            )
                        )
                        append_stored(path, rows[-1])
    except KeyboardInterrupt:
        code = INTERRUPTED
        console.print(f"interrupted; {len(rows)} finished rows are kept", markup=False)
    finally:
        if rows:
            (folder / "report.md").write_text(render_estimates(rows), encoding="utf-8")
            print_estimates(rows, wide_console())
            console.print(f"{len(rows)} estimated rows; see {folder / 'report.md'}", markup=False)
    return code or (0 if any(row.plan["compiles"] for row in rows) else UNUSABLE)


def platform_of(chip: Chip) -> str:
    """Returns the chip as transforms name it, as recjax.hardware.device.support_platform does of a device here."""
    return f"tpu:{chip.name}" if chip.platform == "tpu" else f"cuda:{chip.compute_capability}"


def _identity(case: Case, variant: Chain, of_program: PlanRow) -> dict:
    """Returns the fields that say of what a row is, and its plan."""
    experiment = case.experiment
    return {
        "case": f"{experiment.name}/{variant.label}",
        "model": type(experiment.model).__name__.removesuffix("Config"),
        "model_config": to_dict(experiment.model),
        "dataset": experiment.dataset.source,
        "transforms": [member.to_json() for member in variant.members],
        "variant": variant.label,
        "support": variant.support(platform_of(of_program.target.chip)),
        "plan": of_program.to_json(),
    }
