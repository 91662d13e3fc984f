"""What else happened on the host during a row's windows, as the row's field `host`."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.measured import Measured

SHARES = ("steal_share", "busy_share")
COUNTS = ("cpu_pressure_s", "throttled_s", "involuntary_switches")


def host_fields(records: Sequence[Measured]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns shares of all cores' time, counts over all windows, the longest gap after them; and why some are None.

    `others_share` is what neither the measuring process nor its load generator took.
    """
    noises = [noise for record in records for noise in record.host["windows"]]
    seconds = [noise["duration_s"] for noise in noises]
    fields: dict[str, Any] = {"watched_s": sum(seconds)}
    reasons: dict[str, str] = {}
    for name in (*SHARES, *COUNTS):
        values = [noise[name] for noise in noises]
        if None in values:
            fields[name] = None
            reasons[name] = noises[values.index(None)]["reasons"][name]
        else:
            fields[name] = float(np.average(values, weights=seconds)) if name in SHARES else sum(values)
    own_s = sum(noise["own_cpu_s"] for noise in noises)
    if any(window["verdict"] for record in records for window in record.windows):
        fields["others_share"], reasons["others_share"] = None, "how much LoadGen's own process took is not known"
    elif fields["busy_share"] is None:
        fields["others_share"], reasons["others_share"] = None, reasons["busy_share"]
    else:
        own_share = own_s / (sum(seconds) * (os.cpu_count() or 1))
        fields["others_share"] = max(0.0, fields["busy_share"] - own_share)
    for name in ("load_1m", "cpu_mhz"):
        fields[name] = noises[-1][name]
        if fields[name] is None:
            reasons[name] = noises[-1]["reasons"][name]
    fields["jitter_largest_gap_us"] = max(record.host["jitter"]["largest_gap_us"] for record in records)
    return fields, {f"host.{name}": reason for name, reason in reasons.items()}
