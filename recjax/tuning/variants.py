"""Final models by their chain: each is trained and finalised at most once in a study, and then read from its folder.

Every variant starts from the same trained parameters and gets the same fine-tuning epochs, fp32 included, as in a
benchmark suite; so none is better for having been trained longer. Quality here is that of the validation part: the test
part is for what is reported.
"""

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from recjax.config import Experiment
from recjax.errors import TrainingDivergedError, UserError
from recjax.evaluation import Data, make_evaluator, share_kept
from recjax.progress import stage
from recjax.training.checkpoint import load_metadata, load_tree, save_tree
from recjax.training.final_model import FinalModel, load_final_model
from recjax.training.fit import EpochRecord
from recjax.training.pipeline import finalize, set_up, train
from recjax.transforms.protocol import Chain, Params, chain
from recjax.whole_files import write_json

FINISHING_S = 5.0  # to finalise, evaluate and store, until one was timed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A finished model.

    Attributes:
      folder: of the final model.
      validation: the metric that epochs are chosen by, on the validation part.
      parameter_bytes: of all stored variables.
    """

    folder: Path
    validation: float
    parameter_bytes: int


class Variants:
    """All models of a study, below its folder."""

    def __init__(self, experiment: Experiment, data: Data, folder: Path) -> None:
        """Trains nothing yet.

        Args:
          experiment: without transforms.
          data: from `load_data`.
          folder: of the study.
        """
        self.experiment, self.data, self._folder = experiment, data, folder
        self.metric = data.selection_metric
        self._finishing_s: list[float] = []
        self._slower = 1.0  # than expected, the slowest so far
        for file in sorted((folder / "variants").glob("*.json")):
            stored = json.loads(file.read_text(encoding="utf-8"))
            self._finishing_s += [stored["finishing_s"]] if "finishing_s" in stored else []

    def base(self) -> Params:
        """Returns the trained parameters that every variant starts from or is taught by; trained at the first call."""
        return self._trained((), None, f"{self.experiment.name}: training")

    def is_made(self, transform: Chain) -> bool:
        """Returns whether the variant was made, or found to be impossible, before."""
        return self._file(transform).is_file()

    def expected_s(self, transform: Chain) -> float:
        """Returns about how many seconds `make` would take: by what was timed in this study, on this machine."""
        if self.is_made(transform):
            return 0.0
        finetuning, training = self.experiment.finetuning, self.experiment.training
        trained_s = load_metadata(self._training_folder((), "base"))["seconds"]
        reference = self._training_folder((), "finetuned")
        finetuned_s = load_metadata(reference)["seconds"] if reference.is_dir() else trained_s
        in_training = _in_training(transform)
        seconds = 0.0
        if not self._training_folder(in_training, "finetuned").is_dir():
            seconds = trained_s if chain(*in_training).from_scratch else finetuned_s
        more_epochs = sum(getattr(member, "finetune_epochs", 0) for member in transform.members)
        of_epoch = finetuned_s / finetuning.epochs if finetuning.epochs else trained_s / training.epochs
        finishing_s = max(self._finishing_s, default=FINISHING_S)
        return self._slower * (seconds + more_epochs * of_epoch) + finishing_s

    def make(self, transform: Chain) -> Variant:
        """Returns the variant, trained and stored if it is not there yet.

        Raises:
          UserError: the model cannot have the chain, or training diverged; remembered, so that it is not tried again.
        """
        file = self._file(transform)
        if not self.is_made(transform):
            expected_s, started = self.expected_s(transform), time.perf_counter()
            try:
                stored = self._make(transform)
                took_s = time.perf_counter() - started
                self._slower = max(self._slower, took_s / expected_s)
                stored["seconds"] = took_s
            except (UserError, TrainingDivergedError) as error:
                stored = {"failed": str(error)}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"label": transform.label, **stored}, indent=1)
        stored = json.loads(file.read_text(encoding="utf-8"))
        if "failed" in stored:
            raise UserError(stored["failed"])
        return Variant(
            folder=self.folder_of(transform),
            validation=stored["validation"],
            parameter_bytes=stored["parameter_bytes"],
        )

    def load(self, transform: Chain) -> FinalModel:
        """Returns the stored final model of a variant that was made."""
        return load_final_model(self.folder_of(transform), self.experiment_of(transform), self.data)

    def experiment_of(self, transform: Chain) -> Experiment:
        """Returns the experiment with the chain as its transforms."""
        return dataclasses.replace(self.experiment, transforms=transform.members)

    def folder_of(self, transform: Chain) -> Path:
        """Returns where the variant's final model lies."""
        return self._folder / "models" / _key(transform.members)

    def share_of_fp32(self, variant: Variant) -> float:
        """Returns the share of fp32's validation quality that the variant keeps; 1 where fp32 has none."""
        reference = self.make(chain()).validation
        kept = share_kept(self.metric, variant.validation, reference)
        return 1.0 if kept is None else kept

    def _make(self, transform: Chain) -> dict[str, Any]:
        base, in_training = self.base(), _in_training(transform)
        anew = chain(*in_training).from_scratch
        # What a model cannot have is said before anything is trained for it.
        set_up(self.experiment_of(transform), self.data, start=None if anew else base, taught_by=base)
        verb = "training" if anew else "fine-tuning"
        title = f"{self.experiment.name}: {chain(*in_training).label}: {verb}"
        params = self._trained(in_training, base, title)
        started = time.perf_counter()
        with stage(f"{self.experiment.name}: {transform.label}: finishing", 1) as advance:
            experiment = self.experiment_of(transform)
            model = finalize(experiment, self.data, params)
            quality = make_evaluator(model.score, self.data, "valid")(model.variables)
            folder = self.folder_of(transform)
            folder.parent.mkdir(parents=True, exist_ok=True)
            model.save(folder, experiment, quality)
            validation = quality.metrics[self.metric]
            advance(f"validation {self.metric} {validation:.4f}")
        finishing_s = time.perf_counter() - started
        if not any(getattr(member, "finetune_epochs", 0) for member in transform.members):
            self._finishing_s.append(finishing_s)
        facts = {"validation": validation, "parameter_bytes": model.parameter_bytes()}
        return facts | ({"finishing_s": finishing_s} if self._finishing_s[-1:] == [finishing_s] else {})

    def _trained(self, members: tuple[Any, ...], base: Params | None, title: str) -> Params:
        """Returns parameters fitted with these members in force: from `base`, or anew without one."""
        folder = self._training_folder(members, "base" if base is None else "finetuned")
        if not folder.is_dir():
            started = time.perf_counter()
            experiment = dataclasses.replace(self.experiment, transforms=members)
            start = None if chain(*members).from_scratch else base
            settings = experiment.training if start is None else experiment.finetuning
            with stage(title, settings.epochs) as advance:

                def on_epoch(record: EpochRecord, epochs: int) -> None:
                    del epochs
                    if record.epoch:
                        advance(f"epoch {record.epoch}")

                result = train(experiment, self.data, start=start, taught_by=base, on_epoch=on_epoch)
            folder.parent.mkdir(parents=True, exist_ok=True)
            label = chain(*members).label
            save_tree(folder, result.params, {"label": label, "seconds": time.perf_counter() - started})
        return load_tree(folder)

    def _training_folder(self, members: tuple[Any, ...], kind: str) -> Path:
        return self._folder / "trained" / f"{kind}-{_key(members)}"

    def _file(self, transform: Chain) -> Path:
        return self._folder / "variants" / f"{_key(transform.members)}.json"


def _in_training(transform: Chain) -> tuple[Any, ...]:
    """Returns the members that must be in force while parameters are fitted."""
    return tuple(member for member in transform.members if member.trains)


def _key(members: tuple[Any, ...]) -> str:
    text = json.dumps([member.to_json() for member in members], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if members else "fp32"
