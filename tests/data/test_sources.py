from pathlib import Path

import numpy as np
import pytest

from recjax.config import Dataset
from recjax.data.folders import data_folder
from recjax.data.movielens import NAME as MOVIELENS
from recjax.data.sources import (
    BRIEF_DLRM,
    CLICK_LOGS,
    PLACED,
    SYNTHETIC_DLRM,
    SYNTHETIC_DLRM_SCALES,
    SYNTHETIC_DLRM_V3_SCALES,
    SYNTHETIC_INTERACTIONS,
    check_source,
    load_candidates,
    load_interactions,
    load_labelled_stream,
)
from recjax.errors import UserError


@pytest.fixture(autouse=True)
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder that all data sets are looked for in."""
    monkeypatch.setenv("RECJAX_DATA", str(tmp_path / "sets"))
    return tmp_path / "sets"


def write_ratings(path: Path) -> Path:
    """Writes ratings of which the 2-core leaves users 1 and 2 with items 10 and 20."""
    path.write_text("1,10,5\n1,20,3\n2,10,4\n2,20,1\n3,10,2\n1,30,5\n")
    return path


def test_a_path_is_read_as_delimited_text(tmp_path: Path):
    source = str(write_ratings(tmp_path / "mine.csv"))
    assert len(load_interactions(Dataset(source=source, min_interactions=1))) == 6
    core = load_interactions(Dataset(source=source, min_interactions=2))
    assert (core.name, core.user_ids.tolist(), core.item_ids.tolist()) == ("mine", [1, 2], [10, 20])


def test_a_placed_set_is_read_from_its_folder(data_root: Path):
    folder = data_root / "epinions"
    folder.mkdir(parents=True)
    (folder / "ratings_data.txt").write_text("7 300 2\n2 100 5\n")
    (folder / "trust_data.txt").write_text("2 7 1\n")
    read = load_interactions(Dataset(source="epinions", min_interactions=1))
    assert (read.name, len(read)) == ("epinions", 2)
    assert read.trust is not None
    np.testing.assert_array_equal(read.trust, [[0], [1]])


def test_synthetic_interactions_follow_the_seed():
    first, again, other = (
        load_interactions(Dataset(source=SYNTHETIC_INTERACTIONS, min_interactions=1, seed=seed)) for seed in (0, 0, 1)
    )
    assert first.name == "synthetic-671x9066-taste1.5-seed0"
    np.testing.assert_array_equal(first.item, again.item)
    assert other.name == "synthetic-671x9066-taste1.5-seed1"


def test_labelled_streams(data_root: Path):
    stream = load_labelled_stream(Dataset(source=SYNTHETIC_DLRM, seed=3))
    assert stream is not None
    assert stream.protocol == "synthetic-dlrm-v2/scale=0.01/exponent=1.05/n=1000000/seed=3"
    brief = load_labelled_stream(Dataset(source="synthetic-dlrm-v2-1of100", seed=4))
    assert brief is not None
    assert brief.protocol == "synthetic-dlrm-v2/scale=0.01/exponent=1.05/n=16384/seed=4"
    assert sum(field.vocab_size for field in brief.schema.fields) == 2_041_864
    assert load_labelled_stream(Dataset(source=MOVIELENS)) is None
    folder = data_root / "criteo-kaggle"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("\t".join(["1"] + ["5"] * 13 + ["0000000a"] * 26) + "\n")
    kaggle = load_labelled_stream(Dataset(source="criteo-kaggle"))
    assert kaggle is not None
    assert kaggle.name == "criteo-kaggle"


def test_requests_with_candidates():
    source = "synthetic-dlrm-v3-1of10000"
    data = load_candidates(Dataset(source=source, max_history=64, seed=3))
    assert data.protocol == (
        "synthetic-dlrm-v3/users=500/items=100000/candidates=2048/periods=100x0.78125/exponent=0/seed=3/"
        "newest=64/n=256x32"
    )
    with pytest.raises(UserError) as error:
        load_candidates(Dataset(source=SYNTHETIC_DLRM))
    assert str(error.value) == (
        "synthetic-dlrm-v2 has no requests with candidates, which models of the candidates task rank; set "
        "dataset.source to one that has: synthetic-dlrm-v3-1of10000"
    )
    with pytest.raises(UserError) as error:
        load_interactions(Dataset(source=source))
    assert str(error.value) == f"{source} has requests with candidates; it is for models of the candidates task"


@pytest.mark.parametrize("source", [*PLACED, *CLICK_LOGS])
def test_a_set_that_is_not_there_names_folder_and_command(source: str):
    with pytest.raises(UserError) as error:
        check_source(Dataset(source=source))
    assert str(error.value) == (
        f"{source} is not in {data_folder(source)}; python -m tools.fetch_data {source} brings it or says how"
    )


def test_an_unknown_source_is_one_line_with_the_nearest():
    with pytest.raises(UserError) as error:
        check_source(Dataset(source="ml-100"))
    synthetic = (SYNTHETIC_INTERACTIONS, *SYNTHETIC_DLRM_SCALES, *BRIEF_DLRM, *SYNTHETIC_DLRM_V3_SCALES)
    known = ", ".join(sorted((MOVIELENS, *PLACED, *CLICK_LOGS, *synthetic)))
    assert str(error.value) == (
        f"unknown Dataset.source 'ml-100'; valid: {known}; did you mean 'ml-100k'? "
        "(or the path of a user,item,rating[,timestamp] file; no such file exists)"
    )


@pytest.mark.parametrize("source", ["my.csv", "folder/ratings"])
def test_a_file_that_is_not_there_is_named_first(source: str):
    with pytest.raises(UserError, match=f"Dataset.source is '{source}', and no such file exists; give the path of "):
        check_source(Dataset(source=source))


def test_click_logs_have_no_users():
    with pytest.raises(UserError) as error:
        load_interactions(Dataset(source=SYNTHETIC_DLRM))
    assert str(error.value) == (
        "synthetic-dlrm-v2 has labelled rows and no users; it is for models of the labelled task"
    )


def test_the_page_on_data_names_every_source():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for source in (MOVIELENS, *PLACED, *CLICK_LOGS, SYNTHETIC_INTERACTIONS, *SYNTHETIC_DLRM_SCALES):
        assert f"`{source}`" in page, source
