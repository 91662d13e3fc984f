"""What a benchmark run consists of: cases (an experiment and its variants) and how long to measure.

A suite file in `configs/suites/` defines `get_suite() -> Suite`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from recjax.config import Experiment, check, config
from recjax.config_files import has_key, load_config, override, run_config_file
from recjax.errors import unknown_name
from recjax.load.arrivals import Arrivals
from recjax.load.queries import QueryMix
from recjax.transforms.protocol import Chain, chain

SCENARIOS = ("single_stream", "multi_stream", "offline", "server")
MULTI_STREAM_SAMPLES = 8  # of one query of the multi_stream scenario
SUITES = Path(__file__).parent.parent / "configs" / "suites"


@config
class Case:
    """One experiment trained once as it is (fp32), then fine-tuned and measured under every variant."""

    experiment: Experiment  # with no transforms of its own
    variants: tuple[Chain, ...] = (chain(),)  # the first must be chain(), fp32, what the others are compared with
    from_start: bool = False  # whether each variant is trained from the start as fp32 was, and none is fine-tuned
    fine_tunes: bool | None = None  # whether fp32 is fine-tuned as other variants are; None: if there are others
    validation_floor: float | None = None  # of the epoch-choosing metric; rows of a model that misses it are invalid
    references: tuple[Experiment, ...] = ()  # trained for their quality alone, shown beside it

    def __post_init__(self) -> None:
        labels = [variant.label for variant in self.variants]
        unique = len(set(labels)) == len(labels)
        check(unique, "labels of Case.variants", labels, "all different: rows and models are filed under them")
        first = self.variants[0].label if self.variants else None
        largest = self.experiment.serving.buckets[-1]
        check(largest >= MULTI_STREAM_SAMPLES, "largest of serving.buckets", largest, f">= {MULTI_STREAM_SAMPLES}")
        for reference in self.references:
            check(
                reference.dataset == self.experiment.dataset,
                f"dataset of reference {reference.name}",
                reference.dataset,
                "the case's own dataset, or the two qualities could not be compared",
            )
        check(first == "fp32", "Case.variants[0]", first, "chain(), the untransformed model")

    @property
    def has_fine_tuning(self) -> bool:
        """Returns whether fp32 is trained on as the variants are; a case from the start trains none on."""
        return len(self.variants) > 1 if self.fine_tunes is None else self.fine_tunes


@config
class Measurement:
    """How long each row is measured. Closed-loop windows of all variants take turns, round after round."""

    scenarios: tuple[str, ...] = SCENARIOS  # those to measure, in any order
    processes: int = 1  # fresh ones, each of which measures every row; >= 1
    rounds: int = 5  # of interleaved windows, in each process; >= 1
    window_s: float = 0.3  # of each closed-loop window; > 0
    min_queries: int = 20  # of each closed-loop window; >= 1
    probe_s: float = 0.7  # of each probe of the server's rate search; > 0
    search_steps: int = 6  # halvings of that search's bracket; >= 1
    curve: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)  # of the rate found: where the server is measured once more
    arrivals: Arrivals = Arrivals()  # of the server scenario
    queries: QueryMix = QueryMix()  # sizes of the server scenario's queries, and how popular rows are in all scenarios
    loadgen: Literal["recjax", "mlperf"] = "recjax"  # who asks: recjax itself, or LoadGen
    train_window_s: float = 0.0  # of training steps, for each variant that trains in its own way; 0 times none
    seed: int = 0  # of request draws and arrivals; >= 0

    def __post_init__(self) -> None:
        known = len(self.scenarios) > 0 and set(self.scenarios) <= set(SCENARIOS)
        check(known, "Measurement.scenarios", self.scenarios, f"one or more of {', '.join(SCENARIOS)}")
        alone = set(self.scenarios) == {"server"}
        check(not alone, "Measurement.scenarios", self.scenarios, "server beside another, whose rate starts its search")
        poisson = self.loadgen == "recjax" or self.arrivals.kind == "poisson"
        check(poisson, "Measurement.arrivals", self.arrivals.kind, "poisson: LoadGen draws no others")
        check(self.processes >= 1, "Measurement.processes", self.processes, ">= 1")
        check(self.rounds >= 1, "Measurement.rounds", self.rounds, ">= 1")
        check(all(0 < share < 1 for share in self.curve), "Measurement.curve", self.curve, "shares within 0 and 1")
        check(0 < self.window_s < math.inf, "Measurement.window_s", self.window_s, "> 0 and finite")
        check(0 < self.probe_s < math.inf, "Measurement.probe_s", self.probe_s, "> 0 and finite")
        finite = 0 <= self.train_window_s < math.inf
        check(finite, "Measurement.train_window_s", self.train_window_s, ">= 0 and finite")
        check(self.search_steps >= 1, "Measurement.search_steps", self.search_steps, ">= 1")
        check(self.seed >= 0, "Measurement.seed", self.seed, ">= 0")
        check(self.min_queries >= 1, "Measurement.min_queries", self.min_queries, ">= 1")


@config
class Suite:
    """A named set of cases."""

    name: str
    description: str  # one line, for --list
    cases: tuple[Case, ...]
    measurement: Measurement = Measurement()

    def __post_init__(self) -> None:
        names = [case.experiment.name for case in self.cases]
        unique = len(set(names)) == len(names)
        check(unique, "names of a suite's experiments", names, "all different: rows and models are filed under them")
        if not {"single_stream", "multi_stream"} & set(self.measurement.scenarios):
            largest = min(case.experiment.serving.buckets[-1] for case in self.cases)
            allowed = (
                f"> {MULTI_STREAM_SAMPLES}: no smaller batch is measured in the offline scenario, the only one here"
            )
            check(largest > MULTI_STREAM_SAMPLES, "largest of serving.buckets", largest, allowed)


def shard_of(suite: Suite, text: str) -> Suite:
    """Returns the cases of a suite that "i/n" names: every n-th one, beginning with the i-th, from 1.

    Raises:
      UserError: another form, or a shard without a case.
    """
    number, separator, count = text.partition("/")
    is_form = bool(separator) and number.isdecimal() and count.isdecimal()
    check(is_form and 1 <= int(number) <= int(count), "--shard", text, "i/n with 1 <= i <= n, as in 2/4")
    cases = suite.cases[int(number) - 1 :: int(count)]
    check(bool(cases), "--shard", text, f"at most {len(suite.cases)} shards: {suite.name} has as many cases")
    return dataclasses.replace(suite, cases=cases)


def suite_names() -> list[str]:
    """Returns the names of the suites in configs/suites/."""
    return sorted(path.stem for path in SUITES.glob("*.py"))


def load_suite(name: str, overrides: list[str]) -> Suite:
    """Returns the suite with the overrides applied: `measurement.` to how it measures, others to its experiments.

    Each is applied to every experiment that has the key.

    Raises:
      UserError: no such suite, or an override that fits no experiment of it.
    """
    if name not in suite_names():
        raise unknown_name("suite", name, suite_names())
    suite: Suite = run_config_file(SUITES / f"{name}.py", "get_suite")
    experiments = [e for case in suite.cases for e in (case.experiment, *case.references)]
    of_measurement, of_experiments = _split(overrides)
    for text in of_experiments:
        if not any(has_key(experiment, text) for experiment in experiments):
            override(experiments[0], [text])  # raises, and says what is wrong

    def apply(experiment: Experiment) -> Experiment:
        return override(experiment, [text for text in of_experiments if has_key(experiment, text)])

    cases = [
        dataclasses.replace(
            case, experiment=apply(case.experiment), references=tuple(apply(reference) for reference in case.references)
        )
        for case in suite.cases
    ]
    return override(dataclasses.replace(suite, cases=tuple(cases)), of_measurement)


def suite_of_config(path: str, overrides: list[str]) -> Suite:
    """Returns a suite of one case: the config file's experiment as fp32 and, if it has transforms, with them.

    Overrides of `measurement.` are of how it is measured, others of the experiment.
    """
    of_measurement, of_experiment = _split(overrides)
    experiment = load_config(path, of_experiment)
    transformed = (chain(*experiment.transforms),) if experiment.transforms else ()
    case = Case(experiment=dataclasses.replace(experiment, transforms=()), variants=(chain(), *transformed))
    suite = Suite(name=experiment.name, description=f"the experiment of {path}", cases=(case,))
    return override(suite, of_measurement)


def _split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the overrides of a suite's measurement, and those of its experiments.

    Raises:
      UserError: one begins with a key of neither.
    """
    of_measurement = [text for text in overrides if text.startswith("measurement.")]
    of_experiments = [text for text in overrides if text not in of_measurement]
    known = [field.name for field in dataclasses.fields(Experiment)]
    for text in of_experiments:
        name = text.partition("=")[0]
        group = name.partition(".")[0]
        if group and group not in known:
            raise unknown_name(f"config key in {name!r}:", group, [*known, "measurement"])
    return of_measurement, of_experiments


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a suite is from, so that another process can make it again.

    Attributes:
      loader: which function of this module makes it.
      name: a suite's, or the path of an experiment's file.
      overrides: of its experiments' values and, beginning with `measurement.`, of how it measures.
      shard: the part of its cases that alone is run, as "2/4"; empty for all.
      case: the experiment that alone is run; empty for all.
      variants: labels of the variants that alone are run; none for all.
      scenarios: that alone are measured; none for the suite's own.
      processes: that measure each row; None for the suite's own number.
      loadgen: who asks; None for the suite's own.
    """

    loader: Literal["load_suite", "suite_of_config"]
    name: str
    overrides: tuple[str, ...]
    shard: str = ""
    case: str = ""
    variants: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    processes: int | None = None
    loadgen: Literal["recjax", "mlperf"] | None = None

    def load(self) -> Suite:
        """Returns the suite, or the part of it.

        Raises:
          UserError: as its loader does; or it has no such shard, case or variant.
        """
        suite = {"load_suite": load_suite, "suite_of_config": suite_of_config}[self.loader](
            self.name, list(self.overrides)
        )
        if self.shard:
            suite = shard_of(suite, self.shard)
        cases = [_only(case, self.variants) for case in suite.cases if self.case in ("", case.experiment.name)]
        if not cases:
            raise unknown_name(f"case of {suite.name}", self.case, [case.experiment.name for case in suite.cases])
        its_own = suite.measurement
        measurement = dataclasses.replace(
            its_own,
            scenarios=self.scenarios or its_own.scenarios,
            processes=self.processes or its_own.processes,
            loadgen=self.loadgen or its_own.loadgen,
        )
        return dataclasses.replace(suite, cases=tuple(cases), measurement=measurement)

    def config_of(self, case: int, variant: int) -> str:
        """Returns the text of a config file whose experiment is that case with that variant's transforms."""
        return (
            "import dataclasses\n\n"
            f"from benchmarks.suite import {self.loader}\n\n\n"
            "def get_config():\n"
            f"    case = {self.loader}({self.name!r}, {list(self.overrides)!r}).cases[{case}]\n"
            f"    return dataclasses.replace(case.experiment, transforms=case.variants[{variant}].members)\n"
        )


def _only(case: Case, labels: Sequence[str]) -> Case:
    """Returns the case with these of its variants, trained as in the whole case; with all where none is named."""
    there = {variant.label: variant for variant in case.variants}
    for label in labels:
        if label not in there:
            raise unknown_name(f"variant of {case.experiment.name}", label, there)
    if not labels:
        return case
    variants = tuple(there[label] for label in labels)
    return dataclasses.replace(case, variants=variants, fine_tunes=case.has_fine_tuning)


def source_of(values: Mapping[str, Any]) -> Source:
    """Returns the source that `dataclasses.asdict` made plain values of; what they do not name has its default."""
    fields = {field.name for field in dataclasses.fields(Source)} & values.keys()
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v := values[name], list) else v for name in fields}
    return Source(**plain)
