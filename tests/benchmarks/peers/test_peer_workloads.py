"""Tasks go through their folder unchanged; nothing in it is unpickled."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.workloads import (
    WORKLOADS,
    BagSizes,
    DLRMSizes,
    SASRecSizes,
    Sizes,
    read_sizes,
    read_task,
    resized,
    take_rows,
    write_arrays,
    write_sizes,
)


@pytest.mark.parametrize("sizes", [DLRMSizes(rows=7, top_mlp=(3,)), SASRecSizes(mlp_dims=(8, 9)), BagSizes(tables=1)])
def test_sizes_come_back(sizes: Sizes, tmp_path: Path) -> None:
    write_sizes(tmp_path, sizes)
    assert read_sizes(tmp_path) == sizes


def test_a_task_comes_back_with_its_arrays(tmp_path: Path) -> None:
    sizes, weights = BagSizes(tables=1, rows=2, dim=2, bag_length=1), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    ids = np.array([[1], [0], [1]], np.int32)
    write_sizes(tmp_path, sizes)
    write_arrays(tmp_path, weights={"table_c00/table": weights}, columns={"sparse_ids": ids})
    task = read_task(tmp_path, threads=2)
    assert task.sizes == sizes
    assert task.threads == 2
    np.testing.assert_array_equal(task.weights["table_c00/table"], weights)
    assert task.columns["sparse_ids"].dtype == np.int32
    np.testing.assert_array_equal(task.columns["sparse_ids"], ids)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write_sizes(tmp_path, BagSizes())
    write_arrays(tmp_path, weights={"table": np.array([{"a": "dict"}])}, columns={})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_task(tmp_path, threads=1)


def test_rows_are_taken_in_order_and_repeatedly() -> None:
    columns = {"lengths": np.array([10, 20, 30]), "history": np.arange(6).reshape(3, 2)}
    batch = take_rows(columns, np.array([2, 0, 2]))
    np.testing.assert_array_equal(batch["lengths"], [30, 10, 30])
    np.testing.assert_array_equal(batch["history"], [[4, 5], [0, 1], [4, 5]])


def test_only_tables_are_resized() -> None:
    small = {one.name: resized(one, 50).sizes for one in WORKLOADS}
    assert all(sizes.rows == 50 for sizes in small.values() if not isinstance(sizes, SASRecSizes))
    assert small["sasrec"] == SASRecSizes()
    assert [resized(one, None) for one in WORKLOADS] == list(WORKLOADS)


def test_the_dlrm_is_the_stand_in_of_the_anchors() -> None:
    sizes = dataclasses.asdict(WORKLOADS[0].sizes)
    assert sizes == {
        "tables": 26,
        "rows": 100_000,
        "dim": 64,
        "n_dense": 13,
        "bottom_mlp": (512, 256),
        "cross_ranks": (512, 512, 512),
        "top_mlp": (1024, 1024, 512, 256),
    }
    assert WORKLOADS[0].batch_sizes == (1, 128, 2048)
