"""A small student that learns from a large teacher's scores beside the labels.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (arXiv 1503.02531), section 2; for
ranking, Kang et al., DE-RRD (CIKM 2020), of which this is the plain form: the teacher's scores of the whole catalogue.
"""

import dataclasses
from typing import Any

from recjax.config import check, config
from recjax.errors import unknown_name
from recjax.transforms.protocol import SoftTargets, Stage, Transform, check_teachable
from recjax.transforms.support import Support

DEFAULT = SoftTargets(weight=0.5, temperature=2.0)


@config
class Distill(Transform):
    """Trains a smaller model of the same kind, whose teacher is the experiment's own model, trained before."""

    student: tuple[tuple[str, Any], ...]  # the Config's fields that differ from the teacher's, with their values
    weight: float = DEFAULT.weight  # of the soft targets in the loss, (0, 1]; the labels have the rest
    temperature: float = DEFAULT.temperature  # that both models' scores are divided by, > 0

    stage = Stage.STRUCTURE
    trains = True
    from_scratch = True

    def __post_init__(self) -> None:
        check(len(self.student) > 0, "distill student", self.student, "one or more fields of the model's Config")
        check(0 < self.weight <= 1, "distill weight", self.weight, "(0, 1]")
        check(self.temperature > 0, "distill temperature", self.temperature, "> 0")

    @property
    def label(self) -> str:
        """Returns the student's fields, and how it is taught where that is not the default."""
        notes = [
            *(f"{name}={_short(value)}" for name, value in self.student),
            f"weight {self.weight:g}" if self.weight != DEFAULT.weight else "",
            f"temperature {self.temperature:g}" if self.temperature != DEFAULT.temperature else "",
        ]
        return f"distill({', '.join(note for note in notes if note)})"

    @property
    def soft_targets(self) -> SoftTargets:  # type: ignore[override]
        """Returns how the teacher's scores enter the loss."""
        return SoftTargets(self.weight, self.temperature)

    def rewrite(self, model_config: Any) -> Any:
        """Returns the student's Config; raises UserError for a field that it has not, or a model without requests."""
        check_teachable(self.label, model_config)
        fields = [field.name for field in dataclasses.fields(model_config)]
        for name, _ in self.student:
            if name not in fields:
                raise unknown_name(f"{type(model_config).__name__} key", name, fields)
        return dataclasses.replace(model_config, **dict(self.student))

    def support(self, platform: str) -> Support:
        """Returns "native": a smaller model is smaller anywhere."""
        del platform
        return "native"


def distill(*, weight: float = DEFAULT.weight, temperature: float = DEFAULT.temperature, **student: Any) -> Distill:
    """Returns the transform that trains a student with those fields of the Config, as in `distill(mlp_dims=(64,))`."""
    return Distill(student=tuple(student.items()), weight=weight, temperature=temperature)


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
