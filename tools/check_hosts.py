"""Sees whether the hosts of a run find and reach each other: adds up one number a device over all of them.

Run it on every host, as a benchmark would be run.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from recjax.command_line import OneLineParser, run_command
from recjax.errors import UserError
from tools.launch import natural

EXAMPLES = """examples:
  python -m tools.check_hosts --device=tpu                     on every host of a TPU slice
  srun python -m tools.check_hosts --device=gpu                in a Slurm job
  RECJAX_COORDINATOR=host0:8476 RECJAX_PROCESSES=2 RECJAX_PROCESS=1 python -m tools.check_hosts --device=cpu

exit codes: 0 the sum is right, 2 it is not, or a host is missing or lost (one line says which)"""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line; exits with 2 and one line on unusable arguments."""
    parser = OneLineParser(
        prog="python -m tools.check_hosts", description="Add up one number a device over all hosts.", epilog=EXAMPLES
    )
    parser.add_argument("--device", required=True, choices=("cpu", "gpu", "tpu"), help="what to add up on")
    parser.add_argument(
        "--seconds", type=natural, default=0, metavar="N", help="go on adding that long (default: 0, once)"
    )
    parser.add_argument(
        "--timeout", type=natural, default=300, metavar="N", help="seconds to wait for the others (default: 300)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse_arguments(arguments)
    return run_command(lambda: _check(options))


def _check(options: argparse.Namespace) -> int:
    import jax

    from recjax.parallel.start import finish, quiet_others, start

    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    processes = start(timeout_s=float(options.timeout))
    quiet_others()
    devices = jax.devices(options.device)
    print(f"{processes.count} process{'es' * (processes.count > 1)}, found by: {processes.found_by}")
    for index, name in enumerate(processes.names):
        own = [device for device in devices if device.process_index == index]
        print(f"process {index}: {name}, {len(own)} x {own[0].device_kind if own else 'nothing'}")
    end = time.monotonic() + options.seconds
    while True:
        total = _sum_of_indices(devices)
        if time.monotonic() >= end:
            break
    expected = sum(range(1, len(devices) + 1))
    if total != expected:
        raise UserError(
            f"1 to {len(devices)} over all devices add up to {total}, not {expected}: do not trust the links"
        )
    print(f"1 to {len(devices)} over all devices add up to {total:.0f}, as they should")
    finish()
    return 0


def _sum_of_indices(devices: Sequence) -> float:
    """Returns the sum of 1, 2, ... with one number on each device, computed by an all-reduce."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(devices), ("device",))
    values = np.arange(1, len(devices) + 1, dtype=np.float32)
    sharded = jax.make_array_from_callback(
        values.shape, NamedSharding(mesh, PartitionSpec("device")), lambda index: values[index]
    )
    total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(sharded)
    return float(total)


if __name__ == "__main__":
    sys.exit(main())
