"""A system under test: rows of the request pool in, answers out, with the end of each stage of the work."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from numpy.typing import NDArray

from recjax.serving.compiled import Columns, CompiledModel, Stamps


@runtime_checkable
class System(Protocol):
    """What a load generator can measure."""

    @property
    def buckets(self) -> Sequence[int]:
        """Returns the batch sizes, ascending."""

    @property
    def n_rows(self) -> int:
        """Returns how many rows the request pool has."""

    def answer(self, rows: NDArray) -> tuple[Mapping[str, NDArray], Stamps]:
        """Returns the answers to [n] rows in order, n being at most the largest bucket, and when the stages ended."""

    def padded(self, n: int) -> int:
        """Returns how many samples are computed where n are asked for."""


class ModelSystem:
    """A compiled model and the pool of requests it is asked."""

    def __init__(self, model: CompiledModel, columns: Columns) -> None:
        """Takes the model and the pool's columns, one row a sample."""
        self.model = model
        self.columns = columns
        self.buckets = model.buckets
        self.n_rows = len(next(iter(columns.values())))

    def answer(self, rows: NDArray) -> tuple[Mapping[str, NDArray], Stamps]:
        """Returns the model's outputs for the rows, and when the stages ended."""
        return self.model.answer(self.columns, rows)

    def padded(self, n: int) -> int:
        """Returns the bucket that holds n samples."""
        return self.model.bucket_of(n)
