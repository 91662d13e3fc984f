"""Criteo's click logs as a stream: files larger than memory in, batches of the labelled task out.

Shapes: B batch, N = 13 dense features, F = 26 categorical fields of one id each, E rows.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int32
from numpy.typing import NDArray

from recjax.config import check, config
from recjax.data.batches import NumpyBatch
from recjax.data.criteo_file import Part, detect_format
from recjax.data.criteo_format import (
    N_COLUMNS,
    N_DENSE,
    N_SPARSE,
    SPARSE_NAMES,
    dense_of,
    ids_of,
    labels_of,
)
from recjax.data.features import Field, LabelledSchema
from recjax.data.folders import data_folder, require_files
from recjax.errors import unknown_name

_FILES = {
    "criteo-kaggle": ("train.txt",),
    "criteo-1tb": tuple(f"day_{day}.gz" for day in range(24)),
    "criteo-x1": ("train.csv", "valid.csv", "test.csv"),
}


@config
class CriteoOptions:
    """How rows become numbers, and how far they are shuffled."""

    vocab_sizes: tuple[int, ...] = (100_000,) * N_SPARSE  # rows of each field's table; >= 2, row 0 is a missing token
    shuffle_buffer_rows: int = 262_144  # rows held back while training, 160 bytes each; 1 keeps the file's order
    serving_rows: int = 65_536  # test rows that serving draws its requests from

    def __post_init__(self) -> None:
        sizes = self.vocab_sizes
        right = len(sizes) == N_SPARSE and all(2 <= size < 1 << 31 for size in sizes)
        check(right, "CriteoOptions.vocab_sizes", sizes, f"{N_SPARSE} sizes from 2 to 2147483647")
        for name in ("shuffle_buffer_rows", "serving_rows"):
            check(getattr(self, name) >= 1, f"CriteoOptions.{name}", getattr(self, name), ">= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriteoData:
    """The labelled task over parts that are streamed from files, with the face of `LabelledData`."""

    name: str
    parts_of: Mapping[str, Part]
    how: str
    options: CriteoOptions
    context: Mapping[str, NDArray] = dataclasses.field(default_factory=dict)  # nothing

    @property
    def schema(self) -> LabelledSchema:
        """Returns 13 dense features, and 26 fields of one id."""
        fields = zip(SPARSE_NAMES, self.options.vocab_sizes, strict=True)
        return LabelledSchema(N_DENSE, tuple(Field(name, size) for name, size in fields))

    @functools.cached_property
    def protocol(self) -> str:
        """Returns how rows are split, hashed and transformed."""
        layout = detect_format(self.parts_of["train"].files[0])
        return f"{self.name}/{self.how}/dense={layout.dense_transform}/buckets={sum(self.options.vocab_sizes)}"

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; higher is better."""
        return "auc"

    @property
    def n_train(self) -> int:
        """Returns the number of training samples; the first call reads the files through to count lines."""
        return self.parts_of["train"].counts[0]

    @property
    def train_positive_share(self) -> float:
        """Returns the share of positive labels in the training part, counted together with `n_train`."""
        n_rows, n_positive = self.parts_of["train"].counts
        return n_positive / n_rows

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        """Yields `dense` [B, N], `sparse_ids` [B, F], `labels` [B], `weight` [B].

        The order depends on (seed, epoch) alone, so a resumed run sees the same batches; it is random within a
        buffer of `shuffle_buffer_rows` and keeps the files' order beyond it.
        """
        rows = self.parts_of["train"].rows(self.options.vocab_sizes)
        shuffled = shuffle_rows(rows, self.options.shuffle_buffer_rows, np.random.default_rng((seed, epoch)))
        return _batches(shuffled, batch_size)

    def eval_batches(self, part: str, batch_size: int) -> Iterator[NumpyBatch]:
        """Yields the samples of `part` ("valid" or "test") in order."""
        return _batches(self.parts_of[part].rows(self.options.vocab_sizes), batch_size)

    def serving_samples(self) -> dict[str, NDArray]:
        """Returns the first test samples as request columns: `dense` [E, N], `sparse_ids` [E, F]."""
        taken, left = [], self.options.serving_rows
        for rows in self.parts_of["test"].rows(self.options.vocab_sizes):
            taken.append(rows[:left].copy())
            left -= len(taken[-1])
            if not left:
                break
        rows = np.concatenate([np.empty((0, N_COLUMNS), np.int32), *taken])
        return {"dense": dense_of(rows).copy(), "sparse_ids": ids_of(rows).copy()}


def criteo_from_files(
    name: str,
    *,
    train: Sequence[Path],
    valid: Sequence[Path],
    test: Sequence[Path],
    how: str = "given_files",
    options: CriteoOptions | None = None,
) -> CriteoData:
    """Returns the data of parts that are files of their own; `how` stands in the protocol."""
    files = {"train": train, "valid": valid, "test": test}
    parts = {part: Part(files=tuple(Path(file) for file in paths)) for part, paths in files.items()}
    return CriteoData(name=name, parts_of=parts, how=how, options=options or CriteoOptions())


def criteo_last_day(name: str, days: Sequence[Path], options: CriteoOptions | None = None) -> CriteoData:
    """Returns the data of daily files: all but the last to train, the last one's halves to validate and to test.

    Source: mlcommons/inference, recommendation/dlrm_v2/pytorch/README.md (halves of day 23, the first the larger).
    """
    check(len(days) >= 2, "the number of daily files", len(days), ">= 2: days to train on and a last one to test on")
    last = (Path(days[-1]),)
    parts = {
        "train": Part(files=tuple(Path(day) for day in days[:-1])),
        "valid": Part(files=last, chosen_by="position", high=0.5),
        "test": Part(files=last, chosen_by="position", low=0.5),
    }
    how = f"last_day_of_{len(days)}_in_halves"
    return CriteoData(name=name, parts_of=parts, how=how, options=options or CriteoOptions())


def criteo_one_file(
    name: str,
    file: Path,
    *,
    chosen_by: Literal["hash", "position"] = "hash",
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    options: CriteoOptions | None = None,
) -> CriteoData:
    """Returns the data of one file, split by the hash of each row's number (a random split) or by position (in time).

    Args:
      name: of the data set.
      file: plain or gzip.
      chosen_by: see `Part`.
      ratios: of train, valid and test.
      seed: of the hash.
      options: see CriteoOptions.
    """
    sums = abs(sum(ratios) - 1) < 1e-6 and min(ratios) > 0
    check(sums, "the ratios of the parts", ratios, "three positive numbers that sum to 1")
    cuts = (0.0, ratios[0], ratios[0] + ratios[1], 1.0)
    parts = {
        part: Part(files=(Path(file),), chosen_by=chosen_by, low=cuts[i], high=cuts[i + 1], seed=seed)
        for i, part in enumerate(("train", "valid", "test"))
    }
    how = {"hash": "hashed_rows", "position": "position"}[chosen_by] + "_" + ":".join(f"{10 * r:g}" for r in ratios)
    how += f"/seed={seed}" if chosen_by == "hash" else ""
    return CriteoData(name=name, parts_of=parts, how=how, options=options or CriteoOptions())


def load_criteo(name: str, options: CriteoOptions | None = None) -> CriteoData:
    """Returns a data set that stands in its folder under its official file names.

    "criteo-kaggle" is split 8:1:1 by hashed row numbers, "criteo-1tb" by its last day, "criteo-x1" as given.

    Raises:
      UserError: the name is not one of these, or a file is not there.
    """
    if name not in _FILES:
        raise unknown_name("Criteo data set", name, _FILES)
    folder = data_folder(name)
    require_files(name, folder, *_FILES[name])
    files = [folder / file for file in _FILES[name]]
    if name == "criteo-kaggle":
        return criteo_one_file(name, files[0], options=options)
    if name == "criteo-1tb":
        return criteo_last_day(name, files, options)
    train, valid, test = files
    return criteo_from_files(name, train=[train], valid=[valid], test=[test], how="bars_7:2:1", options=options)


def shuffle_rows(
    blocks: Iterable[Int32[np.ndarray, "_ 40"]], buffer_rows: int, rng: np.random.Generator
) -> Iterator[Int32[np.ndarray, "_ 40"]]:
    """Yields every row once, in random order within a buffer: each comer takes the place of a row drawn at random."""
    buffer, filled = np.empty((buffer_rows, N_COLUMNS), np.int32), 0
    for block in blocks:
        while len(block):
            if filled < buffer_rows:
                taken, block = block[: buffer_rows - filled], block[buffer_rows - filled :]
                buffer[filled : filled + len(taken)] = taken
                filled += len(taken)
                continue
            taken, block = block[:buffer_rows], block[buffer_rows:]
            at = rng.choice(buffer_rows, len(taken), replace=False)
            drawn = buffer[at]
            buffer[at] = taken
            yield drawn
    yield buffer[rng.permutation(filled)]


def _batches(blocks: Iterable[NDArray], batch_size: int) -> Iterator[NumpyBatch]:
    """Yields batches of exactly `batch_size` rows, the last one padded with zeros and weighted 0 there."""
    rest = np.empty((0, N_COLUMNS), np.int32)
    for block in blocks:
        rows = np.concatenate([rest, block]) if len(rest) else block
        whole = len(rows) // batch_size * batch_size
        for start in range(0, whole, batch_size):
            yield _batch(rows[start : start + batch_size], batch_size)
        rest = rows[whole:]
    if len(rest):
        yield _batch(rest, batch_size)


def _batch(rows: NDArray, batch_size: int) -> NumpyBatch:
    padding = batch_size - len(rows)
    columns = {"dense": dense_of(rows), "sparse_ids": ids_of(rows), "labels": labels_of(rows)}
    if not padding:
        batch = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    else:
        batch = {
            name: np.pad(column, [(0, padding)] + [(0, 0)] * (column.ndim - 1)) for name, column in columns.items()
        }
    batch["weight"] = np.pad(np.ones(len(rows), np.float32), (0, padding))
    return batch
