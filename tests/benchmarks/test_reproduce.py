import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from example_rows import VALUES
from test_results import make_row

from benchmarks import reproduce as module
from benchmarks.manifest import check_goes_on, describe_command, experiment_digest, write_manifest
from benchmarks.reproduce import differences, find_row, other_experiment, source_of_row
from benchmarks.suite import Case, Source, load_suite, shard_of, source_of
from recjax.errors import UserError

SOURCE = Source("load_suite", "smoke", ("training.epochs=2",))


def stored(folder: Path, **changes: Any) -> Path:
    command = describe_command(SOURCE, "cpu")
    row = make_row(**({"environment": {"command": command}} | changes))
    assert dataclasses.asdict(row)["processes"] == VALUES["processes"]
    (folder / "results.jsonl").write_text(json.dumps(dataclasses.asdict(row)) + "\n")
    return folder


def test_a_row_leads_back_to_the_part_of_the_suite_that_it_needs(tmp_path: Path) -> None:
    row = find_row(f"{stored(tmp_path, scenario='offline', batch_size=64)}:sasrec/int8/offline/64")
    source, device = source_of_row(row)
    assert (source.loader, source.name, source.overrides, device) == ("load_suite", "smoke", SOURCE.overrides, "cpu")
    assert (source.case, source.variants, source.scenarios) == ("sasrec", ("fp32", "int8"), ("offline",))


def test_a_server_row_needs_the_other_scenarios_too(tmp_path: Path) -> None:
    source, _ = source_of_row(find_row(f"{stored(tmp_path)}:sasrec/int8/server/8"))
    assert source.scenarios == ()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("sasrec/int9/server/8", "did you mean 'sasrec/int8/server/8'"),
        ("sasrec/int8/server", "allowed: RUN:CASE/VARIANT/SCENARIO/BATCH"),
    ],
)
def test_a_row_that_is_not_there(tmp_path: Path, key: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        find_row(f"{stored(tmp_path)}:{key}")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ({}, "it does not say by which command it was measured, as rows do since version 4"),
        (
            {"module": "benchmarks.compare_check", "run": "first"},
            "python -m benchmarks.compare_check measured it in turns with others; run that command again",
        ),
        (
            {"suite": "smoke", "device": "tpu", "experiment_digest": "0" * 16},
            "it is of a run of suite 'smoke' by several processes together",
        ),
    ],
)
def test_a_row_that_does_not_say_where_it_is_from(tmp_path: Path, command: dict[str, str], reason: str) -> None:
    row = find_row(f"{stored(tmp_path, environment={'seed': 0, 'command': command})}:sasrec/int8/server/8")
    with pytest.raises(UserError, match=f"^sasrec/int8/server/8 cannot be measured again alone: {reason}"):
        source_of_row(row)


def test_rows_that_are_not_there() -> None:
    with pytest.raises(UserError, match="no rows at nowhere"):
        find_row("nowhere:sasrec/int8/server/8")


def test_differences_of_environments_are_told() -> None:
    then = {"versions": {"jax": "1"}, "cpu": "a", "flags": {"XLA_FLAGS": "x"}, "seed": 1, "old": 1}
    now = {"versions": {"jax": "2"}, "cpu": "a", "flags": {}, "seed": 2}
    assert differences(then, now) == ["versions.jax: 1 -> 2", "flags.XLA_FLAGS: x -> not set"]


CONFIG = """from recjax.config import Dataset, Experiment, Training
from recjax.models.logistic_regression import LogisticRegressionConfig
from recjax.transforms import quantize


def get_config():
    training = Training(epochs={epochs}, batch_size=32)
    return Experiment(
        name="tiny",
        dataset=Dataset(source="a.csv", split="random", ratios=(0.6, 0.2, 0.2)),
        model=LogisticRegressionConfig(),
        training=training,
        finetuning=training,
        transforms=(quantize(when={when!r}),),
    )
"""


def case_of(folder: Path, *overrides: str, epochs: int = 2, when: str = "after") -> Case:
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(epochs=epochs, when=when))
    return Source("suite_of_config", str(path), overrides).load().cases[0]


def test_a_config_that_was_edited_is_told(tmp_path: Path) -> None:
    before, edited = case_of(tmp_path), case_of(tmp_path, epochs=3)
    command = describe_command(Source("suite_of_config", "tiny.py", ()), "cpu")
    row = make_row(variant="fp32", environment={"command": command})
    assert other_experiment(row, edited, "tiny.py") == []  # a row of before does not say
    row.environment["command"]["experiment_digest"] = experiment_digest(before, "fp32")
    assert other_experiment(row, case_of(tmp_path), "tiny.py") == []
    (line,) = other_experiment(row, edited, "tiny.py")
    digests = [experiment_digest(case, "fp32") for case in (before, edited)]
    assert line == f"experiment: {digests[0]} -> {digests[1]}: tiny.py was edited, or the code gives it other values"


def test_reproduce_tells_it_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case_of(tmp_path)
    source = Source("suite_of_config", str(tmp_path / "tiny.py"), ())
    command = describe_command(source, "cpu") | {"experiment_digest": "0" * 16}
    values = {"case": "tiny/fp32", "variant": "fp32", "scenario": "offline", "batch_size": 64}
    stored(tmp_path, environment={"command": command}, **values)
    monkeypatch.setattr(module, "run_apart", lambda *_: 2)
    assert module.reproduce(f"{tmp_path}:tiny/fp32/offline/64", tmp_path / "again") == 2
    printed = "".join(capsys.readouterr())
    assert printed.count("other than then: experiment: 0000000000000000 -> ") == 1


def test_every_value_of_an_experiment_is_in_its_digest(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    label = case.variants[1].label
    digests = {
        experiment_digest(case, "fp32"),
        experiment_digest(case, label),
        experiment_digest(case_of(tmp_path, "serving.top_k=3"), "fp32"),
        experiment_digest(case_of(tmp_path, "training.seed=3"), "fp32"),
        experiment_digest(case_of(tmp_path, "parallel.strategy=pjit"), "fp32"),
        experiment_digest(case_of(tmp_path, "dataset.seed=3"), "fp32"),
    }
    assert len(digests) == 6
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)
    assert experiment_digest(case, "null") == experiment_digest(case, "fp32")  # it answers the same requests
    other = case_of(tmp_path, when="training")
    assert experiment_digest(other, "fp32") == experiment_digest(case, "fp32")  # of the transforms, the variant's own
    assert experiment_digest(other, other.variants[1].label) != experiment_digest(case, label)
    assert source_of(describe_command(SOURCE, "cpu") | {"experiment_digest": "0"}) == SOURCE


def test_a_source_survives_json_and_narrows_its_suite() -> None:
    source = dataclasses.replace(SOURCE, case="sasrec", variants=("fp32",), scenarios=("offline",))
    again = source_of(json.loads(json.dumps(dataclasses.asdict(source))))
    assert again == source
    suite = again.load()
    assert [case.experiment.name for case in suite.cases] == ["sasrec"]
    assert [variant.label for variant in suite.cases[0].variants] == ["fp32"]
    assert suite.measurement.scenarios == ("offline",)
    assert suite.cases[0].experiment.training.epochs == 2


def test_shards_are_every_nth_case() -> None:
    suite = load_suite("zoo", [])
    shards = [shard_of(suite, f"{number}/4") for number in (1, 2, 3, 4)]
    names = [[case.experiment.name for case in shard.cases] for shard in shards]
    assert sorted(itertools.chain(*names)) == sorted(case.experiment.name for case in suite.cases)
    assert abs(len(names[0]) - len(names[3])) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "/"])
def test_a_shard_that_cannot_be(text: str) -> None:
    with pytest.raises(UserError, match=r"--shard is .*; allowed: i/n"):
        shard_of(load_suite("smoke", []), text)


def test_a_shard_without_a_case() -> None:
    with pytest.raises(UserError, match="smoke has as many cases"):
        shard_of(load_suite("smoke", []), "3/3")


def test_a_run_goes_on_only_by_its_own_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*run.json"):
        check_goes_on(tmp_path, describe_command(SOURCE, "cpu"), SOURCE.load())
    write_manifest(tmp_path, "r", describe_command(SOURCE, "cpu"), SOURCE.load())
    assert check_goes_on(tmp_path, describe_command(SOURCE, "cpu"), SOURCE.load()) == "r"
    with pytest.raises(UserError, match=r"another command \(device='cpu'\)"):
        check_goes_on(tmp_path, describe_command(SOURCE, "gpu"), SOURCE.load())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run_id": "r", "command": 1, "git": {}}'])
def test_a_damaged_run_does_not_go_on(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run.json does not say what was run .*; leave --resume out"):
        check_goes_on(tmp_path, describe_command(SOURCE, "cpu"), SOURCE.load())


def test_a_run_goes_on_only_at_its_own_commit(tmp_path: Path) -> None:
    write_manifest(tmp_path, "r", describe_command(SOURCE, "cpu"), SOURCE.load())
    content = json.loads((tmp_path / "run.json").read_text())
    content["git"]["commit"] = "0" * 40
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="begun at commit 000000000"):
        check_goes_on(tmp_path, describe_command(SOURCE, "cpu"), SOURCE.load())


def test_a_run_goes_on_only_with_the_configs_and_the_code_it_began_with(tmp_path: Path) -> None:
    command, suite = describe_command(SOURCE, "cpu"), SOURCE.load()
    write_manifest(tmp_path, "r", command, suite)
    case = suite.cases[0]
    training = dataclasses.replace(case.experiment.training, learning_rate=0.123)
    edited = dataclasses.replace(case, experiment=dataclasses.replace(case.experiment, training=training))
    with pytest.raises(UserError, match=f"begun with another config of {case.experiment.name}/"):
        check_goes_on(tmp_path, command, dataclasses.replace(suite, cases=(edited, *suite.cases[1:])))
    content = json.loads((tmp_path / "run.json").read_text())
    content["git"]["diff"] = "0" * 16
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="files of the repository were edited since"):
        check_goes_on(tmp_path, command, suite)
