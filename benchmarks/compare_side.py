"""One revision's side of a comparison in turns: `python -m benchmarks.compare_side REQUEST`, REQUEST being JSON.

`benchmarks.compare` of any later revision runs this file as the measured revision has it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from recjax.command_line import run_command
from recjax.errors import UserError


def main(arguments: list[str]) -> int:
    """Runs the suite that the request describes and returns the exit code."""
    request = json.loads(arguments[0])
    return run_command(lambda: _run(request))


def _run(request: dict[str, Any]) -> int:
    import benchmarks
    import recjax
    from benchmarks.runner import run_apart
    from benchmarks.suite import Source

    for package in (benchmarks, recjax):
        folder = Path(package.__file__ or "").parent.parent.resolve()
        if folder != Path(request["tree"]).resolve():
            raise UserError(f"{package.__name__} was imported from {folder}, not from {request['tree']}")
    overrides, processes = tuple(request["overrides"]), request["processes"]
    source = Source(request["loader"], request["name"], overrides, processes=processes)
    return run_apart(source.load(), source, request["device"], Path(request["folder"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
