"""What is known of a case's variants before they are timed, as it travels from the process that trains to the others.

Models lie in models/EXPERIMENT/VARIANT of the run's folder, and this beside them, in prepared.json.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from recjax.whole_files import write_json

FILE = "prepared.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedVariant:
    """A trained and transformed variant.

    Attributes:
      label: of the variant.
      row: fields of its result rows that are the same in every scenario.
      reasons: why some of them are None.
      dot_dtype: the type that most of its products run in.
      masks: whether something in its chain masks weights.
      realises_masks: and something removes or skips them.
      masked_label: of the chain without what removes masked zeros.
      below_floor: why every row of it is invalid, if training fell short.
    """

    label: str
    row: dict[str, Any]
    reasons: dict[str, str]
    dot_dtype: str
    masks: bool
    realises_masks: bool
    masked_label: str
    below_floor: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """All variants of a case, fp32 first.

    Attributes:
      experiment: its name.
      training: over which devices it was spread.
      variants: in the order of the case.
    """

    experiment: str
    training: dict[str, Any]
    variants: tuple[PreparedVariant, ...]

    def save(self, folder: Path) -> None:
        """Writes prepared.json below the run's folder."""
        file = case_folder(folder, self.experiment) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, dataclasses.asdict(self), indent=1)


def load_prepared(folder: Path, experiment: str) -> PreparedCase | None:
    """Returns what `PreparedCase.save` wrote, None if the case is not prepared."""
    file = case_folder(folder, experiment) / FILE
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    variants = tuple(PreparedVariant(**variant) for variant in values.pop("variants"))
    return PreparedCase(variants=variants, **values)


def case_folder(folder: Path, experiment: str) -> Path:
    """Returns where the models of an experiment lie in a run's folder."""
    return folder / "models" / experiment


def model_folder(folder: Path, experiment: str, label: str) -> Path:
    """Returns where the final model of a variant lies in a run's folder."""
    return case_folder(folder, experiment) / label.replace(" ", "")
