"""A process of `benchmarks.compare_check`: `python -m benchmarks.compare_check_process REQUEST`, REQUEST being JSON.

It trains the models, or measures all variants of both; in the run that is slowed, with a wrapper around each system.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recjax.command_line import run_command

if TYPE_CHECKING:
    from benchmarks.contestants import Contestant


def main(arguments: list[str]) -> int:
    """Does what the request describes and returns the exit code."""
    request = json.loads(arguments[0])
    return run_command(lambda: _run(request))


def _run(request: dict[str, Any]) -> int:
    from benchmarks.compare_check_suite import check_suite
    from benchmarks.contestants import load_contestants
    from benchmarks.measure import Place, measure_case
    from benchmarks.measured import append_measured
    from benchmarks.measuring import facts_of, process_folder, save_facts
    from benchmarks.prepare import prepare_case
    from benchmarks.program_cache import keep_programs
    from recjax.hardware.ceilings import Ceilings
    from recjax.hardware.device import select_device

    keep_programs(Path(request["cache"]))

    suite, device = check_suite(request["processes"]), select_device("cpu")[0]
    folder, process = Path(request["folder"]), request["process"]
    if process is None:
        for case in suite.cases:
            prepare_case(case, folder)
        return 0
    # All is loaded and compiled before the first window, while the processes of the other runs do the same.
    loaded = []
    for case in suite.cases:
        contestants = [one for one in load_contestants(case, folder) if not one.is_null]
        if request["slowdown"]:
            contestants = [_slowed(one, request["slowdown"], request["seed"] + process) for one in contestants]
        part = process_folder(folder / request["run"], case.experiment.name, process)
        save_facts(
            facts_of(process, contestants, device, Ceilings(**request["ceilings"]), suite.measurement.seed), part
        )
        loaded.append((case.experiment, contestants, part))
    for experiment, contestants, part in loaded:
        place = Place(process=process, platform=device.platform, n_devices=1, name=experiment.name)
        for records in measure_case(contestants, suite.measurement, experiment.serving, place, {}):
            append_measured(part, records)
    return 0


def _slowed(contestant: "Contestant", share: float, seed: int) -> "Contestant":
    from benchmarks.slowed import SlowedSystem

    return dataclasses.replace(contestant, system=SlowedSystem(contestant.system, share, seed))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
