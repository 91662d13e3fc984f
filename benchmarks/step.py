"""A step of a run in a process of its own: `python -m benchmarks.step REQUEST`, REQUEST being JSON.

Training and measuring have processes of their own, so that every measurement starts with a fresh one, no device is
held by two, and what a training leaves in memory is in no figure.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.suite import source_of
from recjax.command_line import INTERRUPTED, UNUSABLE, run_command
from recjax.errors import UserError


class StepError(Exception):
    """A step's process has said what was wrong, and ended with this code."""

    def __init__(self, code: int) -> None:
        """Takes the code."""
        super().__init__(f"a step ended with code {code}")
        self.code = code


def run_apart(request: Mapping[str, Any]) -> None:
    """Runs a step in a process of its own and returns when it is done.

    Raises:
      StepError: it has printed an error that the user can mend.
      KeyboardInterrupt: it was interrupted.
      UserError: it ended in another way, as when the system runs out of memory.
    """
    command = [sys.executable, "-m", "benchmarks.step", json.dumps(request)]
    code = subprocess.run(command, check=False).returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code == UNUSABLE:
        raise StepError(code)
    if code:
        raise UserError(
            f"the process that was to {request['step']} {request['name']} ended with code {code}; what was finished is "
            "kept: the same command with --resume goes on"
        )


def main(arguments: list[str]) -> int:
    """Runs the step that the request describes and returns its exit code."""
    request = json.loads(arguments[0])
    return run_command(lambda: _run(request))


def _run(request: Mapping[str, Any]) -> int:
    from recjax.hardware.device import select_device

    device = select_device(request["device"])[0]
    if request["step"] == "look for":
        return 0
    suite = source_of(request["source"]).load()
    case = next(case for case in suite.cases if case.experiment.name == request["name"])
    folder = Path(request["folder"])
    if request["step"] == "prepare":
        from benchmarks.prepare import prepare_case

        prepare_case(case, folder, suite.measurement.train_window_s)
    else:
        from benchmarks.measuring import cache_folder, measure_part
        from benchmarks.program_cache import keep_programs

        keep_programs(cache_folder(folder, request["name"]))
        measure_part(suite, case, folder, device, request["process"], request["rates"], request["ceilings"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
