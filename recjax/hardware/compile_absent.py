"""Compiles one program of an experiment for hardware that is not here, in a process of its own.

    python -m recjax.hardware.compile_absent REQUEST ANSWER

The compilers read the environment before JAX is imported, and may end the process they run in: so each program has its
own, and what ends it is the reason why that program does not compile. `compile_in_child` is what others call.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recjax.errors import DeviceError, UserError
from recjax.hardware.topology import Target, environment, missing_compiler, parse_target

if TYPE_CHECKING:
    from recjax.hardware.program_costs import ProgramCosts
    from recjax.training.memory import Needs

Program = Literal["train", "serve", "sparsecore"]
COMPILE_TIMEOUT_S = 600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Which program to compile for what.

    Attributes:
      config: path of the experiment's file.
      overrides: of its values, as "a.b=c".
      target: as "v5e:4x4".
      mesh: devices along each axis; -1 takes all that are left.
      program: a training step, the answer to a batch of requests, or a training step with its tables on SparseCores.
      batch_size: samples of all devices together; None takes the experiment's.
    """

    config: str
    overrides: tuple[str, ...]
    target: str
    mesh: Mapping[str, int]
    program: Program
    batch_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of it.

    Attributes:
      reason: why it did not compile, in one line; None if it did.
      needed_bytes: memory of a device that it would need, if there is too little of it.
      costs: the fields of recjax.hardware.program_costs.ProgramCosts; None if it did not.
      samples: of one run.
      training_bytes: memory of a device that a whole training takes at its fullest moment; None of other programs.
      mesh: with every size known.
      compile_s: seconds to trace, lower and compile.
      compiler: its versions.
    """

    reason: str | None = None
    needed_bytes: int | None = None
    costs: dict[str, Any] | None = None
    samples: int | None = None
    training_bytes: int | None = None
    mesh: dict[str, int] | None = None
    compile_s: float | None = None
    compiler: str | None = None


def compile_in_child(request: Request, timeout_s: float = COMPILE_TIMEOUT_S) -> Answer:
    """Returns what came of compiling the request in a new process; an error there is the answer's reason.

    Raises:
      UserError: the request names no hardware that there is.
    """
    target = parse_target(request.target)
    if missing := missing_compiler(target.chip.platform):
        return Answer(reason=missing)
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(dataclasses.asdict(request)))
        command = [sys.executable, "-m", "recjax.hardware.compile_absent", str(asked), str(answered)]
        # The persistent cache has no room for programs of devices that are not here.
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT"))
        }
        try:
            done = subprocess.run(
                command,
                env=inherited | environment(target),
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return Answer(reason=f"compiling took more than {timeout_s:g} s and was ended")
        if answered.is_file():
            return Answer(**json.loads(answered.read_text()))
        return Answer(reason=f"the compiler ended its process: {_last_words(done)}")


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Returns how a process ended, and the last line that it wrote."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    fatal = next((line for line in lines if re.match(r"F\d{4} |.*Check failed", line)), lines[-1] if lines else "")
    code = done.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"{how}{': ' if fatal else ''}{fatal[:300]}"


def compile_here(request: Request) -> Answer:
    """Returns what came of compiling the request in this process, whose environment must be the target's."""
    import jax
    import jaxlib

    from recjax.config_files import load_config
    from recjax.hardware.program_costs import program_costs
    from recjax.hardware.programs import serving_program, training_program
    from recjax.hardware.sparsecore_program import sparsecore_program
    from recjax.hardware.topology import absent_devices
    from recjax.parallel.mesh import make_mesh
    from recjax.training.pipeline import load_data

    target = parse_target(request.target)
    try:
        devices = absent_devices(target)
        mesh = make_mesh(request.mesh, devices)
        experiment = load_config(request.config, request.overrides)
        make = {"train": training_program, "serve": serving_program, "sparsecore": sparsecore_program}
        planned = make[request.program](experiment, load_data(experiment), mesh, request.batch_size)
        started = time.perf_counter()
        traced = planned.function.trace(*planned.arguments)
        compiled = traced.lower().compile()
        compile_s = time.perf_counter() - started
        costs = program_costs(traced, compiled, target.n_devices)
    except (UserError, DeviceError) as error:
        return Answer(reason=str(error))
    except jax.errors.JaxRuntimeError as error:
        return compiler_error(str(error))
    return Answer(
        costs=dataclasses.asdict(costs),
        samples=planned.samples,
        training_bytes=_training_bytes(planned.needs, costs) if planned.needs else None,
        mesh=dict(mesh.shape),
        compile_s=compile_s,
        compiler=f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, {_plugin_version(target)}",
    )


def _training_bytes(needs: "Needs", costs: "ProgramCosts") -> int:
    """Returns the memory of a training's fullest moment: within a step, or at the end of an epoch."""
    in_a_step = sum(needs.held.values()) + costs.temporary_bytes + costs.code_bytes
    return max(in_a_step, needs.n_bytes)


def compiler_error(message: str) -> Answer:
    """Returns a compiler's error as an answer: of one for memory, how much a device would need and how much it has."""
    text = " ".join(message.split())
    memory = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", text)
    if not memory:
        return Answer(reason=text[:300])
    needed, unit, there, its_unit = memory.groups()
    scale = 1024 ** ("", "K", "M", "G", "T").index(unit)
    reason = f"needs {needed} {unit}iB of a device's memory, which has {there} {its_unit}iB for a program"
    return Answer(reason=reason, needed_bytes=int(float(needed) * scale))


def _plugin_version(target: Target) -> str:
    from importlib.metadata import version

    package = {"tpu": "libtpu", "cuda": "jax-cuda13-plugin"}[target.chip.platform]
    return f"{package} {version(package)}"


def main(arguments: list[str]) -> int:
    """Compiles what the first file asks for and writes the answer into the second."""
    asked, answered = (Path(argument) for argument in arguments)
    values = json.loads(asked.read_text())
    request = Request(**{**values, "overrides": tuple(values["overrides"])})
    answer = compile_here(request)
    answered.write_text(json.dumps(dataclasses.asdict(answer)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
