import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recjax.data.batches import NumpyBatch
from recjax.data.criteo import (
    CriteoData,
    CriteoOptions,
    criteo_from_files,
    criteo_last_day,
    criteo_one_file,
    load_criteo,
    shuffle_rows,
)
from recjax.data.criteo_format import COLUMN_NAMES
from recjax.data.hashing import hash_tokens
from recjax.errors import UserError

SIZES = (1 << 30,) + (50,) * 25


def write_rows(path: Path, numbers: range) -> Path:
    """Writes a row for each number: its parity as label, itself as I1 and C1."""
    rows = ("\t".join([str(i % 2), str(i)] + [""] * 12 + [f"{i:08x}"] + ["0000000a"] * 25) for i in numbers)
    path.write_text("".join(row + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> CriteoData:
    """Returns 100 training, 20 validation and 30 test rows, numbered on."""
    return criteo_from_files(
        "toy",
        train=[write_rows(tmp_path / "a", range(60)), write_rows(tmp_path / "b", range(60, 100))],
        valid=[write_rows(tmp_path / "v", range(100, 120))],
        test=[write_rows(tmp_path / "t", range(120, 150))],
        options=CriteoOptions(vocab_sizes=SIZES, shuffle_buffer_rows=32, serving_rows=25),
    )


def row_numbers(batches: Iterator[NumpyBatch]) -> list[int]:
    """Returns the numbers of the rows, which stand in I1 as log(1 + x)."""
    return [round(np.expm1(x)) for batch in batches for x in batch["dense"][batch["weight"] > 0, 0]]


def test_evaluation_batches_are_the_part_in_order_and_padded(data: CriteoData):
    batches = list(data.eval_batches("valid", 8))
    assert row_numbers(iter(batches)) == list(range(100, 120))
    assert [batch["weight"].sum() for batch in batches] == [8, 8, 4]
    last = batches[-1]
    shapes = {name: (column.shape, column.dtype) for name, column in last.items()}
    assert shapes == {
        "dense": ((8, 13), np.float32),
        "sparse_ids": ((8, 26), np.int32),
        "labels": ((8,), np.float32),
        "weight": ((8,), np.float32),
    }
    np.testing.assert_array_equal(last["labels"], [0, 1, 0, 1, 0, 0, 0, 0])
    tokens = np.arange(116, 120, dtype=np.uint32)
    np.testing.assert_array_equal(last["sparse_ids"][:4, 0], hash_tokens(tokens, SIZES[0]))
    assert not last["dense"][4:].any()
    assert not last["sparse_ids"][4:].any()


def test_training_batches_hold_every_row_once_shuffled(data: CriteoData):
    numbers = row_numbers(data.train_batches(16, 0, 1))
    assert sorted(numbers) == list(range(100))
    assert numbers != sorted(numbers)
    batch = next(data.train_batches(16, 0, 1))
    np.testing.assert_array_equal(batch["labels"], [number % 2 for number in numbers[:16]])  # rows stay whole


def test_the_order_depends_on_seed_and_epoch_alone(data: CriteoData):
    order = row_numbers(data.train_batches(16, 3, 2))
    assert order == row_numbers(data.train_batches(16, 3, 2))
    assert order == row_numbers(data.train_batches(7, 3, 2))
    assert order != row_numbers(data.train_batches(16, 3, 1))
    assert order != row_numbers(data.train_batches(16, 2, 2))


def test_a_buffer_of_one_row_keeps_the_order(tmp_path: Path):
    path = write_rows(tmp_path / "a", range(40))
    options = CriteoOptions(shuffle_buffer_rows=1)
    data = criteo_from_files("toy", train=[path], valid=[path], test=[path], options=options)
    assert row_numbers(data.train_batches(8, 0, 1)) == list(range(40))


@pytest.mark.parametrize("buffer_rows", [1, 7, 50, 1000])
def test_shuffling_loses_and_doubles_nothing(buffer_rows: int):
    rows = np.arange(300, dtype=np.int32)[:, None] * np.ones(40, np.int32)
    blocks = [rows[:20], rows[20:200], rows[200:200], rows[200:]]
    shuffled = np.concatenate(list(shuffle_rows(blocks, buffer_rows, np.random.default_rng(0))))
    assert sorted(shuffled[:, 0].tolist()) == list(range(300))
    assert (shuffled == shuffled[:, :1]).all()


def test_a_shuffled_row_is_far_from_where_it_stood():
    rows = np.arange(20_000, dtype=np.int32)[:, None] * np.ones(40, np.int32)
    blocks = np.split(rows, 100)
    order = np.concatenate(list(shuffle_rows(blocks, 2_000, np.random.default_rng(0))))[:, 0]
    distance = np.abs(order - np.arange(20_000))
    assert 1_000 < distance.mean() < 4_000  # a buffer's length, as each row leaves it at a constant rate


def test_counts_positive_share_and_serving(data: CriteoData):
    assert data.n_train == 100
    assert data.train_positive_share == 0.5
    samples = data.serving_samples()
    assert sorted(samples) == ["dense", "sparse_ids"]
    assert samples["dense"].shape == (25, 13)
    assert samples["sparse_ids"].shape == (25, 26)
    np.testing.assert_allclose(np.expm1(samples["dense"][:, 0]), np.arange(120, 145), rtol=1e-5)


def test_schema_names_fields_and_sizes(data: CriteoData):
    assert data.schema.n_dense == 13
    assert [field.name for field in data.schema.fields] == [f"C{i}" for i in range(1, 27)]
    assert [field.vocab_size for field in data.schema.fields] == list(SIZES)
    assert {field.length for field in data.schema.fields} == {1}
    assert data.selection_metric == "auc"


def test_the_last_day_is_for_testing(tmp_path: Path):
    days = [write_rows(tmp_path / f"day_{day}", range(10 * day, 10 * day + 5)) for day in range(3)]
    data = criteo_last_day("criteo-1tb", days, CriteoOptions(shuffle_buffer_rows=1))
    assert row_numbers(data.train_batches(4, 0, 1)) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert row_numbers(data.eval_batches("valid", 4)) == [20, 21, 22]
    assert row_numbers(data.eval_batches("test", 4)) == [23, 24]
    assert data.protocol == "criteo-1tb/last_day_of_3_in_halves/dense=log1p/buckets=2600000"
    with pytest.raises(UserError, match=r"^the number of daily files is 1; allowed: >= 2: days to train on and "):
        criteo_last_day("criteo-1tb", days[:1])


@pytest.mark.parametrize(("chosen_by", "how"), [("hash", "hashed_rows_6:2:2/seed=5"), ("position", "position_6:2:2")])
def test_one_file_is_split_in_three(tmp_path: Path, chosen_by, how: str):
    path = write_rows(tmp_path / "train.txt", range(1000))
    data = criteo_one_file("toy", path, chosen_by=chosen_by, ratios=(0.6, 0.2, 0.2), seed=5)
    train = row_numbers(data.train_batches(64, 0, 1))
    valid, test = (row_numbers(data.eval_batches(part, 64)) for part in ("valid", "test"))
    assert sorted(train + valid + test) == list(range(1000))
    assert data.n_train == len(train)
    if chosen_by == "position":
        assert (valid, test) == (list(range(600, 800)), list(range(800, 1000)))
    else:
        assert 550 < len(train) < 650
        assert 160 < len(valid) < 240
    assert data.protocol == f"toy/{how}/dense=log1p/buckets=2600000"


def test_ratios_must_sum_to_one(tmp_path: Path):
    with pytest.raises(UserError) as error:
        criteo_one_file("toy", tmp_path / "x", ratios=(0.8, 0.1, 0.2))
    assert str(error.value) == (
        "the ratios of the parts is (0.8, 0.1, 0.2); allowed: three positive numbers that sum to 1"
    )


def test_official_sets_are_found_in_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RECJAX_DATA", str(tmp_path))
    with pytest.raises(UserError) as error:
        load_criteo("criteo-kaggle")
    assert str(error.value) == (
        f"criteo-kaggle: {tmp_path}/criteo-kaggle/train.txt is not there; python -m tools.fetch_data criteo-kaggle "
        "brings it or says how"
    )
    with pytest.raises(UserError, match=r"^unknown Criteo data set 'criteo'; valid: criteo-1tb, criteo-kaggle, "):
        load_criteo("criteo")
    (tmp_path / "criteo-kaggle").mkdir()
    write_rows(tmp_path / "criteo-kaggle" / "train.txt", range(100))
    kaggle = load_criteo("criteo-kaggle")
    assert kaggle.protocol == "criteo-kaggle/hashed_rows_8:1:1/seed=0/dense=log1p/buckets=2600000"
    assert 70 < kaggle.n_train < 90

    (tmp_path / "criteo-x1").mkdir()
    for name in ("train", "valid", "test"):
        rows = ",".join(COLUMN_NAMES) + "\n" + ",".join(["1"] + ["0.25"] * 13 + ["7"] * 26) + "\n"
        (tmp_path / "criteo-x1" / f"{name}.csv").write_text(rows)
    x1 = load_criteo("criteo-x1")
    assert x1.protocol == "criteo-x1/bars_7:2:1/dense=as_given/buckets=2600000"
    assert next(x1.eval_batches("test", 1))["dense"].tolist() == [[0.25] * 13]

    (tmp_path / "criteo-1tb").mkdir()
    for day in range(24):
        write_rows(tmp_path / "criteo-1tb" / f"day_{day}.gz", range(2))
    assert load_criteo("criteo-1tb").n_train == 46


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_sizes": (9, 9)}, "CriteoOptions.vocab_sizes is (9, 9); allowed: 26 sizes from 2 to 2147483647"),
        (
            {"vocab_sizes": (1,) * 26},
            f"CriteoOptions.vocab_sizes is {(1,) * 26}; allowed: 26 sizes from 2 to 2147483647",
        ),
        ({"shuffle_buffer_rows": 0}, "CriteoOptions.shuffle_buffer_rows is 0; allowed: >= 1"),
        ({"serving_rows": 0}, "CriteoOptions.serving_rows is 0; allowed: >= 1"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str):
    with pytest.raises(UserError) as error:
        CriteoOptions(**options)
    assert str(error.value) == message


STREAM = """
import json, sys, time
from pathlib import Path
from recjax.data.criteo import criteo_from_files

file = [Path(sys.argv[1])]
data = criteo_from_files("big", train=file, valid=file, test=file)
started = time.perf_counter()
n = positives = 0
for batch in data.train_batches(8192, 0, 1):
    n += int(batch["weight"].sum())
    positives += int(batch["labels"].sum())
seconds = time.perf_counter() - started
# The high-water mark of this program alone: getrusage's also holds what the parent had in memory when it forked.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
counted = data.n_train, round(data.train_positive_share * data.n_train)
print(json.dumps({"n": n, "positives": positives, "counted": counted, "peak_kib": int(peak.split()[1]), "s": seconds}))
"""


@pytest.mark.slow
def test_a_file_of_two_gigabytes_streams_in_less_than_one(tmp_path: Path):
    rng = np.random.default_rng(0)
    counts = rng.zipf(1.3, (20_000, 13)).clip(max=10**6)
    tokens = rng.integers(0, 2**32, (20_000, 26))
    lines = [
        "\t".join(
            [
                str(int(label)),
                *(str(x - 2) if x % 5 else "" for x in dense),
                *(f"{t:08x}" if t % 9 else "" for t in ids),
            ]
        )
        for label, dense, ids in zip(rng.random(20_000) < 0.25, counts.tolist(), tokens.tolist(), strict=True)
    ]
    block = ("\n".join(lines) + "\n").encode()
    repeats = -(-2 * 10**9 // len(block))
    path = tmp_path / "train.txt"
    try:
        with path.open("wb") as file:
            for _ in range(repeats):
                file.write(block)
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", STREAM, str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
        )
        assert path.stat().st_size >= 2 * 10**9
    finally:
        path.unlink()
    seen = json.loads(done.stdout)
    print(f"{seen['n'] / seen['s']:,.0f} rows/s, peak {seen['peak_kib'] / 1024:.0f} MiB")
    positives = sum(line.startswith("1") for line in lines)
    assert (seen["n"], seen["positives"]) == (repeats * 20_000, repeats * positives)
    assert seen["counted"] == [seen["n"], seen["positives"]]
    assert seen["peak_kib"] * 1024 < 10**9
