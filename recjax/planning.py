"""`recjax plan`: what an experiment would need, and do at best, on hardware that is not here.

Every program is compiled by the hardware's own compiler in a process of its own; time, rate and price follow from the
compiled program and published figures. They are estimates: nothing here has run.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recjax.errors import UserError
from recjax.hardware.compile_absent import Answer, Program, Request, compile_in_child
from recjax.hardware.estimate import Estimate, estimate
from recjax.hardware.facts import Price
from recjax.hardware.program_costs import ProgramCosts
from recjax.hardware.topology import Target, parse_target

PROGRAMS: Mapping[str, tuple[Program, ...]] = {
    "train": ("train",),
    "serve": ("serve",),
    "both": ("train", "serve"),
    "sparsecore": ("sparsecore",),
}
AT_ONCE = 2  # compilers running side by side, each of which takes a core most of the time


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One program on one target; `reason` says why it does not compile, and then little else is known.

    Attributes:
      target: chip, number and shape.
      program: "train", "serve", or "sparsecore", a training step with its tables on SparseCores.
      reason: in one line; None if it compiles.
      needed_bytes: memory of a device that it would need, known where there is too little, or where it compiles.
      samples: of one run of the program.
      training_bytes: memory of a device that a whole training takes at its fullest moment, in a "train" row.
      mesh: devices along each axis.
      costs: of one device.
      estimate: at the roofline.
      price: that the estimate is made with, None if there is none.
      compile_s: seconds that the compiler took here.
      compiler: its versions.
    """

    target: Target
    program: Program
    reason: str | None = None
    needed_bytes: int | None = None
    samples: int | None = None
    training_bytes: int | None = None
    mesh: Mapping[str, int] | None = None
    costs: ProgramCosts | None = None
    estimate: Estimate | None = None
    price: Price | None = None
    compile_s: float | None = None
    compiler: str | None = None

    @property
    def fits(self) -> bool | None:
        """Returns whether a device has room for the program, and for a whole training; None if it does not compile."""
        if self.reason is not None or self.needed_bytes is None:
            return None
        return max(self.needed_bytes, self.training_bytes or 0) <= self.target.chip.usable_hbm_bytes

    def to_json(self) -> dict[str, Any]:
        """Returns the row as plain JSON values, marked as an estimate."""
        chip = self.target.chip
        return {
            "estimated": True,
            "target": self.target.name,
            "chip": chip.name,
            "n_chips": self.target.n_chips,
            "n_devices": self.target.n_devices,
            "program": self.program,
            "compiles": self.reason is None,
            "reason": self.reason,
            "samples": self.samples,
            "mesh": None if self.mesh is None else dict(self.mesh),
            "memory_bytes": self.needed_bytes,
            "training_bytes": self.training_bytes,
            "fits": self.fits,
            "capacity_bytes": chip.usable_hbm_bytes,
            "costs": None if self.costs is None else dataclasses.asdict(self.costs),
            "estimate": None if self.estimate is None else dataclasses.asdict(self.estimate),
            "price": None if self.price is None else dataclasses.asdict(self.price),
            "compile_s": self.compile_s,
            "compiler": self.compiler,
        }


def parse_targets(text: str) -> list[Target]:
    """Returns the hardware that a list such as "v5e:4x4,h200:8" names.

    Raises:
      UserError: an empty list, one named twice, or what `parse_target` refuses.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise UserError(f"--devices is {text!r}; allowed: a list of hardware, as v5e:4x4,h200:8")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--devices names {', '.join(twice)} more than once")
    return [parse_target(name) for name in names]


def plan(
    config: str,
    targets: Sequence[Target],
    programs: Sequence[Program],
    *,
    overrides: Sequence[str] = (),
    mesh: Mapping[str, int],
    batch_size: int | None = None,
    prices: Mapping[str, Price],
    advance: Callable[[str], None] = lambda note: None,
) -> list[PlanRow]:
    """Returns a row for each program on each target, in that order; what does not compile has its reason.

    Args:
      config: path of the experiment's file.
      targets: hardware.
      programs: "train", "serve", "sparsecore".
      overrides: of the experiment's values, as "a.b=c".
      mesh: devices along each axis; -1 takes all that are left.
      batch_size: samples of all devices together; None takes the experiment's.
      prices: by chip.
      advance: called after each program with what came of it.
    """
    cases = [(target, program) for target in targets for program in programs]

    def compiled(case: tuple[Target, Program]) -> PlanRow:
        target, program = case
        request = Request(
            config=config,
            overrides=tuple(overrides),
            target=target.name,
            mesh=mesh,
            program=program,
            batch_size=batch_size,
        )
        row = plan_row(target, program, compile_in_child(request), prices.get(target.chip.name))
        advance(f"{target.name} {program}: {'compiled' if row.reason is None else 'does not compile'}")
        return row

    with concurrent.futures.ThreadPoolExecutor(max_workers=min(AT_ONCE, os.cpu_count() or 1)) as pool:
        return list(pool.map(compiled, cases))


def plan_row(target: Target, program: Program, answer: Answer, price: Price | None) -> PlanRow:
    """Returns the row of what came of compiling a program."""
    if answer.costs is None or answer.samples is None:
        return PlanRow(target=target, program=program, reason=answer.reason, needed_bytes=answer.needed_bytes)
    costs = ProgramCosts(**answer.costs)
    return PlanRow(
        target=target,
        program=program,
        needed_bytes=costs.memory_bytes,
        samples=answer.samples,
        training_bytes=answer.training_bytes,
        mesh=answer.mesh,
        costs=costs,
        estimate=estimate(costs, target.chip, target.shape, answer.samples, price),
        price=price,
        compile_s=answer.compile_s,
        compiler=answer.compiler,
    )
