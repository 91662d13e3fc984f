"""Waiting for a moment in which the machine does nothing else."""

import time

from recjax.measurement.host_noise import BUSY, HostWatch

PROBE_S, PROBES = 0.5, 4  # quiet is what lasts for a while


def wait_until_quiet(until_s: float) -> bool:
    """Returns whether the machine has been quiet for PROBES x PROBE_S; False once that moment is over.

    Nothing of this run computes meanwhile, so whatever is busy is another program.

    Args:
      until_s: of `time.monotonic`.
    """
    quiet = 0
    while quiet < PROBES:
        if time.monotonic() >= until_s:
            return False
        with HostWatch() as watch:
            time.sleep(PROBE_S)
        if watch.noise.busy_share is None:  # a system that does not tell; there is nothing to wait for
            return True
        quiet = quiet + 1 if watch.noise.busy_share < BUSY else 0
    return True
