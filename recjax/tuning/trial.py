"""What is known of one candidate: the record that a study keeps, prints and goes on from."""

import dataclasses
import json
from typing import Any

from recjax.transforms.serialised import from_json
from recjax.tuning.space import Candidate

FIGURES = (  # that a trial which is pruned early does not have
    "validation",
    "validation_share",
    "parameter_bytes",
    "memory_bytes",
    "closed_loop_samples_per_s",
    "full_batch_ms",
    "rate_samples_per_s",
    "usd_per_million",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate and what was measured of it; a figure that was not had is None, and `reasons` says why.

    Attributes:
      number: 0 is the config as it stands, without transforms.
      transforms: of the chain, as `to_json` gives them.
      label: of the chain.
      buckets: batch sizes.
      devices: that answer together.
      model_devices: of those, that share layers.
      state: "complete", or "pruned".
      stage: that pruned it: inapplicable, budget, quality, memory, latency, price, dominated or rate; None if none did.
      reason: in words; None likewise.
      validation: quality on the validation part.
      validation_share: of fp32's.
      parameter_bytes: stored variables.
      memory_bytes: the largest program's arguments, outputs and temporaries on one device, by the compiler.
      closed_loop_samples_per_s: full batches one after the other.
      full_batch_ms: median latency of one.
      rate_samples_per_s: the highest rate that a probe held; of short probes, so it selects and is not reported.
      usd_per_million: at that rate, or at the closed loop's where a price pruned it.
      seconds: that the trial took.
      reasons: why figures are None.
    """

    number: int
    transforms: tuple[dict[str, Any], ...]
    label: str
    buckets: tuple[int, ...]
    devices: int
    model_devices: int = 1
    state: str = "complete"
    stage: str | None = None
    reason: str | None = None
    validation: float | None = None
    validation_share: float | None = None
    parameter_bytes: int | None = None
    memory_bytes: int | None = None
    closed_loop_samples_per_s: float | None = None
    full_batch_ms: float | None = None
    rate_samples_per_s: float | None = None
    usd_per_million: float | None = None
    seconds: float = 0.0
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def candidate(self) -> Candidate:
        """Returns what was tried."""
        return Candidate(
            transform=from_json(self.transforms),
            buckets=self.buckets,
            devices=self.devices,
            model_devices=self.model_devices,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the record as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))


def trial_of(number: int, candidate: Candidate, **known: Any) -> Trial:
    """Returns the record of a candidate."""
    return Trial(
        number=number,
        transforms=tuple(member.to_json() for member in candidate.transform.members),
        label=candidate.transform.label,
        buckets=candidate.buckets,
        devices=candidate.devices,
        model_devices=candidate.model_devices,
        **known,
    )


def trial_from_json(values: dict[str, Any]) -> Trial:
    """Returns the record that `Trial.to_json` gave."""
    return Trial(**{**values, "transforms": tuple(values["transforms"]), "buckets": tuple(values["buckets"])})
