from pathlib import Path

import numpy as np
import pytest
from numpy_peers import SIZES

from benchmarks.peers.workloads import write_arrays, write_sizes


@pytest.fixture
def tiny_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a task's folder, with numpy_peers within reach of the processes that are started on it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    rng = np.random.default_rng(0)
    write_sizes(tmp_path, SIZES)
    weights = {f"table_c{i:02d}/table": rng.normal(size=(20, 4)).astype(np.float32) for i in range(2)}
    write_arrays(tmp_path, weights=weights, columns={"sparse_ids": rng.integers(0, 20, (50, 6)).astype(np.int32)})
    return tmp_path
