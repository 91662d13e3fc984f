"""Smaller embedding tables: rows of integers or narrower floats, shared rows, and products of smaller arrays.

What is stored is a form of recjax.nn.tables at the table's place among the parameters, which lookups read as it is.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
from jaxtyping import Array

from recjax.config import check, config
from recjax.errors import UserError
from recjax.transforms import table_factors, table_rounding, table_sharing
from recjax.transforms.paths import set_path
from recjax.transforms.protocol import Finalization, Params, RowCounts, Stage, Transform, TransformReport, Variables
from recjax.transforms.support import Support

Method = Literal[
    "int8", "int4", "bf16", "fp16", "hash", "quotient_remainder", "mixed_dimension", "tensor_train", "prune_rows"
]
BITS = {"int8": 8, "int4": 4}
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
STRUCTURAL = ("hash", "quotient_remainder", "mixed_dimension", "tensor_train")  # trained in their form
OPTIONS = {
    "through_training": ("int8", "int4"),
    "ratio": ("hash", "quotient_remainder"),
    "blocks": ("mixed_dimension",),
    "alpha": ("mixed_dimension",),
    "rank": ("tensor_train",),
    "min_count": ("prune_rows",),
    "share": ("prune_rows",),
    "min_rows": (*STRUCTURAL, "prune_rows"),
}


@config
class CompressEmbeddings(Transform):
    """Stores the embedding tables that the patterns name in a smaller form.

    A table is named by its path, as in "items" or "table_user"; a pattern is a regular expression that must match the
    whole path. Tables of one value a row, which are biases, are no tables here.

    "int8" and "int4" round rows to integers with a scale and an offset each, after training or, with
    `through_training`, in it; "bf16" and "fp16" round values after training. "hash" lets ids share rows,
    "quotient_remainder" makes a row the product of two shared ones, "mixed_dimension" gives rare ids narrower rows and
    "tensor_train" factors the table: these are trained in their form, the first two from the start. "prune_rows" lets
    ids that were rare in training share one row after it.
    """

    method: Method
    tables: tuple[str, ...] = (".*",)
    through_training: bool = False  # int8, int4: whether training sees the rounding
    ratio: float = 0.1  # hash, quotient_remainder: rows stored for each row that there was, (0, 1)
    blocks: int = 4  # mixed_dimension: of ids by popularity, each with about as many lookups, >= 2
    alpha: float = 0.3  # mixed_dimension: a block's width is D x (its popularity / the first block's)^alpha, (0, 1]
    rank: int = 16  # tensor_train: of the cores, >= 1
    min_count: int = 0  # prune_rows: lookups in an epoch of training that keep a row, >= 1; 0 goes by `share`
    share: float = 0.0  # prune_rows: of the rows, those looked up least, that are merged, (0, 1)
    min_rows: int = 100  # all but the roundings: a smaller table stays as it is, >= 1

    def __post_init__(self) -> None:
        default = {field.name: field.default for field in dataclasses.fields(self)}
        for name, methods in OPTIONS.items():
            value = getattr(self, name)
            if self.method not in methods and value != default[name]:
                raise UserError(
                    f"compress_embeddings {name}={value!r} is no option of {self.method}; it is one of "
                    f"{', '.join(methods)}"
                )
        is_tuple = isinstance(self.tables, tuple) and bool(self.tables)
        check(is_tuple, "compress_embeddings tables", self.tables, 'patterns, as in ("items", "table_.*")')
        for pattern in self.tables:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"compress_embeddings table {pattern!r} is no regular expression: {error}") from error
        check(0 < self.ratio < 1, "compress_embeddings ratio", self.ratio, "(0, 1)")
        check(self.blocks >= 2, "compress_embeddings blocks", self.blocks, ">= 2")
        check(0 < self.alpha <= 1, "compress_embeddings alpha", self.alpha, "(0, 1]")
        check(self.rank >= 1, "compress_embeddings rank", self.rank, ">= 1")
        check(self.min_rows >= 1, "compress_embeddings min_rows", self.min_rows, ">= 1")
        if self.method == "prune_rows":
            check(self.min_count >= 0, "compress_embeddings min_count", self.min_count, ">= 0")
            check(0 <= self.share < 1, "compress_embeddings share", self.share, "[0, 1)")
            one = (self.min_count > 0) != (self.share > 0)
            given = f"min_count={self.min_count}, share={self.share:g}"
            check(one, "compress_embeddings prune_rows", given, "one of min_count >= 1 and share in (0, 1)")

    @property
    def stage(self) -> Stage:  # type: ignore[override]
        """Returns before training for what is trained in its form, else with the other roundings of tables."""
        return Stage.STRUCTURE if self.method in STRUCTURAL else Stage.TABLES

    @property
    def trains(self) -> bool:  # type: ignore[override]
        """Returns whether training works on the form."""
        return self.method in STRUCTURAL or self.through_training

    @property
    def from_scratch(self) -> bool:  # type: ignore[override]
        """Returns whether trained tables are of no use to it."""
        return self.method in ("hash", "quotient_remainder")

    @property
    def label(self) -> str:
        """Returns the method and its size, as in "tables(hash 0.1)"."""
        sizes = {
            "hash": f" {self.ratio:g}",
            "quotient_remainder": f" {self.ratio:g}",
            "mixed_dimension": f" {self.blocks} blocks {self.alpha:g}",
            "tensor_train": f" rank {self.rank}",
            "prune_rows": f" below {self.min_count}" if self.min_count else f" {self.share:g}",
        }
        notes = (", in training" if self.through_training else "") + (", some" if self.tables != (".*",) else "")
        return f"tables({self.method}{sizes.get(self.method, '')}{notes})"

    def support(self, platform: str) -> Support:
        """Returns "native": a smaller table is smaller anywhere."""
        del platform
        return "native"

    def start(self, model_config: Any, params: Params, seed: int, counts: RowCounts) -> Params:
        """Returns the parameters with tables in the form that is trained.

        Raises:
          UserError: there is nothing to compress, a pattern matches no table, or the model is solved, not trained.
        """
        chosen, _ = self._chosen(model_config, params)
        if not self.trains:
            return params
        if model_config.samples().unit == "everything":
            name = type(model_config).__name__
            raise UserError(f"{self.label} needs gradients, and {name} is solved; use int8 or int4 after training")
        for number, (path, table) in enumerate(chosen.items()):
            params = set_path(params, _place(path), self._trained_form(path, table, seed + number, counts))
        return params

    def finalize(
        self, model_config: Any, variables: Variables, context: Finalization
    ) -> tuple[Any, Variables, TransformReport]:
        """Returns the variables with tables as they are served; the report has each table's bytes before and after."""
        params = variables["params"]
        chosen, left_alone = self._chosen(model_config, params)
        for path, table in chosen.items():
            form = table if self.method in STRUCTURAL else self._final_form(path, table, context.counts)
            if form is table and not isinstance(table, Mapping):
                left_alone[path] = "its form would not be smaller"
            params = set_path(params, _place(path), form)
        drawn, final = tables_of(context.shapes(model_config)), tables_of(params)
        sizes = {
            path: {"bytes_before": _bytes(drawn[path]), "bytes_after": _bytes(final[path])}
            for path in chosen
            if path not in left_alone
        }
        report = {"method": self.method, "tables": sizes, "left_alone": left_alone}
        return model_config, {**variables, "params": params}, TransformReport(report)

    def _trained_form(self, path: str, table: Array, seed: int, counts: RowCounts) -> Any:
        """Returns the form that is trained in the place of the table, or the table if that is not larger."""
        if self.through_training:
            return {f"rounded_{self.method}": table}
        if self.method == "hash":
            form: Any = table_sharing.hashed(table, self.ratio)
        elif self.method == "quotient_remainder":
            sizes = table_sharing.composed_rows(len(table), self.ratio)
            assert sizes is not None, "tables without such sizes are left alone"
            form = table_sharing.composed(table, sizes, seed)
        elif self.method == "mixed_dimension":
            counts_V = table_sharing.check_counted(counts()[path], path, self.label)
            form = table_factors.mixed_dimension(table, counts_V, self.blocks, self.alpha)
        else:
            form = table_factors.tensor_train(table, self.rank)
        return form if _bytes(form) < _bytes(table) else table

    def _final_form(self, path: str, table: Any, counts: RowCounts) -> Any:
        """Returns the form in which the trained table is served, or the table if that is not larger."""
        if self.method in BITS:
            bits = BITS[self.method]
            if isinstance(table, Mapping):
                return table_rounding.integers_as_trained(table[f"rounded_{self.method}"], bits, path)
            return table_rounding.integers(table, bits)
        if self.method in DTYPES:
            form: Any = table_rounding.narrower_float(table, DTYPES[self.method], path)
        else:
            counts_V = table_sharing.check_counted(counts()[path], path, self.label)
            is_kept_V = table_sharing.rows_kept(counts_V, self.min_count, self.share)
            form = table if is_kept_V.all() else table_sharing.pruned(table, counts_V, is_kept_V)
        return form if _bytes(form) < _bytes(table) else table

    def _chosen(self, model_config: Any, params: Params) -> tuple[dict[str, Any], dict[str, str]]:
        """Returns by path the tables to compress, or compressed already by `start`, and why others are left alone.

        Raises:
          UserError: there is no such table, or a pattern matches none.
        """
        tables = tables_of(params)
        name = type(model_config).__name__
        for pattern in self.tables:
            if tables and not any(re.fullmatch(pattern, path) for path in tables):
                raise UserError(
                    f"compress_embeddings table {pattern!r} matches no table of {name}; its tables: {', '.join(tables)}"
                )
        named = {path: t for path, t in tables.items() if any(re.fullmatch(p, path) for p in self.tables)}
        left_alone = {path: reason for path, table in named.items() if (reason := self._objection(table))}
        if chosen := {path: table for path, table in named.items() if path not in left_alone}:
            return chosen, left_alone
        reasons = "; ".join(f"{path}: {reason}" for path, reason in left_alone.items()) or "it has no embedding table"
        raise UserError(f"{self.label} has nothing to compress in {name}: {reasons}")

    def _objection(self, table: Any) -> str | None:
        """Returns why a table stays as it is, None if it does not."""
        if isinstance(table, Mapping):
            of_start = self.method in STRUCTURAL or f"rounded_{self.method}" in table
            return None if of_start else f"stored as {', '.join(sorted(table))} already"
        n_rows, dim = table.shape
        if self.method in OPTIONS["min_rows"] and n_rows < self.min_rows:
            return f"{n_rows} rows are fewer than min_rows, {self.min_rows}"
        if self.method == "int4" and dim % 2:
            return f"four bits need an even width, and its is {dim}"
        if self.method == "quotient_remainder" and table_sharing.composed_rows(n_rows, self.ratio) is None:
            return f"{n_rows} rows need a ratio of {2 * n_rows**-0.5:.3g} or more"
        return None


def compress_embeddings(method: Method, *, tables: tuple[str, ...] = (".*",), **options: Any) -> CompressEmbeddings:
    """Returns the transform that stores embedding tables in a smaller form; options as in CompressEmbeddings."""
    return CompressEmbeddings(method=method, tables=tables, **options)


def tables_of(params: Params, prefix: str = "") -> dict[str, Any]:
    """Returns every embedding table, in whatever form, by its path, as in "items" or "fields/table_x".

    Tables of one value a row are left out: they are biases.
    """
    found: dict[str, Any] = {}
    for key, value in params.items():
        if key == "table":
            if isinstance(value, Mapping) or value.shape[1] > 1:
                found[prefix] = value
        elif isinstance(value, Mapping):
            found |= tables_of(value, f"{prefix}/{key}" if prefix else key)
    return found


def _place(path: str) -> str:
    return f"{path}/table" if path else "table"


def _bytes(form: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(form))
