"""The quality command line, and the names that its references have."""

from pathlib import Path

import pytest
from assertions import assert_help_is_light, assert_one_line
from config_files import write_config

from benchmarks import quality_rows
from benchmarks.quality import main
from benchmarks.references import OF_SASREC, REFERENCES, SOURCE, TRIED
from recjax.config_files import load_config
from recjax.data.protocols import PROTOCOLS, under

REPOSITORY = Path(__file__).parent.parent.parent
ML_100K = REPOSITORY / "configs" / SOURCE.replace("-", "_")


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("data was loaded or a training started")

    monkeypatch.setattr(quality_rows, "train", refuse)
    monkeypatch.setattr(quality_rows, "load_data", refuse)


@pytest.fixture(scope="module")
def measured(ratings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of one row, made by the command."""
    folder = tmp_path_factory.mktemp("measured")
    config = write_config(folder, ratings_file, epochs=1)
    assert main([str(config), "--seeds=1", f"--out={folder / 'rows'}"]) == 0
    return folder / "rows"


def test_it_measures_every_seed_and_writes_the_page(
    measured: Path, ratings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out = tmp_path / "page.md", tmp_path / "rows"
    config = write_config(tmp_path, ratings_file, epochs=1)
    assert main([str(config), "--seeds=2", f"--out={out}", f"--page={page}", "--set", "name=renamed"]) == 0
    assert len((out / "renamed.jsonl").read_text().splitlines()) == 2
    assert "| renamed | 2 |" in page.read_text()
    assert "seed 1: test rmse" in capsys.readouterr().err


@pytest.mark.usefixtures("no_training")
def test_the_page_alone_trains_nothing(measured: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    assert main([f"--out={measured}", f"--page={page}", f"--tuning={tmp_path}", "--device=tpu"]) == 0
    assert "| tiny | 1 |" in page.read_text()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("content", [None, ""])
def test_without_rows_there_is_no_page_but_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "empty.jsonl").write_text(content)
    page = tmp_path / "docs" / "page.md"
    assert main([f"--out={tmp_path}", f"--page={page}"]) == 2
    assert_one_line(capsys.readouterr().err, f"no rows in {tmp_path}", "python -m benchmarks.quality CONFIG")
    assert not page.parent.exists()


@pytest.mark.usefixtures("no_training")
def test_a_malformed_row_or_trial_is_one_line_with_its_place(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, trials = tmp_path / "rows", tmp_path / "trials"
    for folder in (rows, trials):
        folder.mkdir()
    whole = (measured / "tiny.jsonl").read_text()
    (rows / "tiny.jsonl").write_text(whole + whole[:100])
    (trials / "tiny.jsonl").write_text("{}\n")
    page = tmp_path / "page.md"
    assert main([f"--out={rows}", f"--page={page}"]) == 2
    assert_one_line(capsys.readouterr().err, f"{rows / 'tiny.jsonl'}:2: ")
    assert main([f"--out={measured}", f"--tuning={trials}", f"--page={page}"]) == 2
    assert_one_line(capsys.readouterr().err, f"{trials / 'tiny.jsonl'}:1: ")
    assert not page.exists()


@pytest.mark.usefixtures("no_training")
def test_a_page_that_cannot_be_written_is_one_line(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_file = tmp_path / "file"
    a_file.write_text("precious")
    for page in (tmp_path, a_file / "page.md"):
        assert main([f"--out={measured}", f"--page={page}"]) == 2
        assert_one_line(capsys.readouterr().err, f"cannot write {page}", "--page")
    assert a_file.read_text() == "precious"


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["no/such.py"], "no config file 'no/such.py'"),
        (["{config}", "--device=cpus"], "did you mean 'cpu'?"),
        (["{config}", "--set", "training.epoch=3"], "did you mean 'epochs'?"),
        (["{config}", "--set", "dataset.source=my.csv"], "'my.csv'"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    arguments: list[str], part: str, ratings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write_config(tmp_path, ratings_file), tmp_path / "out"
    assert main([*(argument.format(config=config) for argument in arguments), f"--out={out}"]) == 2
    assert_one_line(capsys.readouterr().err, part)
    assert not out.exists()


@pytest.mark.parametrize("arguments", [[], ["--seeds=3"], ["a.py", "--seeds=0"], ["a.py", "--trials=3"]])
def test_unusable_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert_one_line(capsys.readouterr().err, "--help")


def test_help_imports_nothing_heavy() -> None:
    assert_help_is_light("benchmarks.quality", "--page")


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_is_of_a_config_under_its_protocol(name: str) -> None:
    experiment = load_config(ML_100K / f"{name}.py")
    assert experiment.name == name
    free = {"max_history": experiment.dataset.max_history, "windows": experiment.dataset.windows}
    for reference in REFERENCES[name]:
        assert reference.protocol in PROTOCOLS
        assert experiment.dataset == under(reference.protocol, source=SOURCE, **free)


def test_other_names_in_references_are_of_configs() -> None:
    for name in ("sasrec", *OF_SASREC, *TRIED):
        folder = REPOSITORY / "configs" / "filmtrust" if name.endswith("_filmtrust") else ML_100K
        assert load_config(folder / f"{name.removesuffix('_filmtrust')}.py").name == name
