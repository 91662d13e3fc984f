"""The contest: hand-made variants and the tuned deployment in turn, under one limit and the same arrivals."""

import dataclasses
import datetime
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.prepared import load_prepared, model_folder
from benchmarks.tune_check_screen import case_of, read_screened
from recjax.config import Experiment
from recjax.errors import UserError
from recjax.evaluation import Data, Quality, make_evaluator, share_kept
from recjax.hardware.software import describe_software
from recjax.load.checks import window_fault, wrong_answers
from recjax.load.client import LoadGenerator
from recjax.load.closed_loop import closed_loop, warm_up
from recjax.load.queries import QueryMix
from recjax.load.quiet_heap import quiet_heap
from recjax.load.rate_search import RateSearch, alone, search_rate
from recjax.load.system import ModelSystem
from recjax.load.window import Window
from recjax.measurement.host_noise import HostWatch
from recjax.measurement.intervals import Interval, interval, paired_ratio, rate_of
from recjax.progress import stage
from recjax.quality_interval import retained_interval
from recjax.serving.compiled import compile_final_model
from recjax.serving.deployment import Deployment
from recjax.training.final_model import FinalModel, load_final_model
from recjax.training.pipeline import load_data
from recjax.transforms.protocol import Chain, chain
from recjax.tuning.goal import parse_queries
from recjax.whole_files import write_whole

CONTEST = "contest.jsonl"
CLOSED_LOOP_S, MIN_QUERIES = 0.3, 5
PROBE_S, STEPS = 0.5, 6
SEED = 5_000_000  # arrivals that neither the suite nor the tuning has seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entrant:
    """What takes part.

    Attributes:
      role: "hand-made", "hand-made, tuned buckets", "tuned, suite's buckets" or "tuned".
      transform: its chain.
      buckets: its batch sizes.
      folder: of its model.
    """

    role: str
    transform: Chain
    buckets: tuple[int, ...]
    folder: Path

    @property
    def label(self) -> str:
        """Returns the role and the chain."""
        return f"{self.role}: {self.transform.label}"


class Qualities(NamedTuple):
    """What a model reaches, by the metric that epochs are chosen by."""

    metric: str
    valid: Quality
    test: Quality


class Contest(NamedTuple):
    """By entrant: its closed-loop windows and its rate searches, one of each a round, and why it is invalid."""

    closed: list[list[Window]]
    searches: list[list[RateSearch]]
    faults: list[str | None]


def measure(deployment: Deployment, rounds: int, models: Path, out: Path) -> None:
    """Writes a row for each entrant.

    Raises:
      UserError: nothing was prepared, or the deployment is for several devices.
      CheckpointError: a model is missing, corrupt, or of another experiment.
    """
    if (n_devices := deployment.serving.devices) > 1:
        raise UserError(f"the deployment is for {n_devices} devices and the contest is on one; tune for one")
    case = case_of(deployment)
    experiment, data = case.experiment, load_data(case.experiment)
    trained = [one.label for one in read_screened(out) if one.is_trained]
    if load_prepared(models, experiment.name) is None:
        raise UserError(f"no models in {models}; run benchmarks.tune_check --step=prepare first")
    hand_made = [v for v in case.variants if v.label in trained]
    entrants = _entrants(deployment, experiment, hand_made, models)
    loaded = [_load(entrant.transform, entrant.folder, experiment, data) for entrant in entrants]
    systems = []
    with stage(f"{experiment.name}: compiling", len(entrants)) as advance:
        for entrant, model in zip(entrants, loaded, strict=True):
            columns = data.serving_samples()
            compiled = compile_final_model(model, columns, entrant.buckets, experiment.serving.top_k)
            systems.append(ModelSystem(compiled, columns))
            warm_up(systems[-1])
            advance(entrant.label)
    mix = mix_of(deployment)
    fp32 = _load(chain(), model_folder(models, experiment.name, chain().label), experiment, data)
    with HostWatch() as host:
        contest = _in_turn(entrants, systems, deployment.limits.p99_ms, mix, rounds)
    facts = {
        "host": dataclasses.asdict(host.noise),
        "environment": describe_software(),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    qualities = [_qualities(model, data) for model in loaded]
    _write(deployment, experiment, entrants, qualities, _qualities(fp32, data), contest, facts, out)


def mix_of(deployment: Deployment) -> QueryMix:
    """Returns the queries that the deployment was tuned under, from its words."""
    first = deployment.limits.queries.partition(" ")[0]
    return parse_queries(first if " to " not in deployment.limits.queries else "dlrm_v2")


def _entrants(deployment: Deployment, experiment: Experiment, hand_made: list[Chain], models: Path) -> list[Entrant]:
    suite, tuned = experiment.serving.buckets, deployment.serving.buckets

    def folder(variant: Chain) -> Path:
        return model_folder(models, experiment.name, variant.label)

    own = deployment.folder / deployment.model
    return [
        *(Entrant(role="hand-made", transform=v, buckets=suite, folder=folder(v)) for v in hand_made),
        *(Entrant(role="hand-made, tuned buckets", transform=v, buckets=tuned, folder=folder(v)) for v in hand_made),
        Entrant(role="tuned, suite's buckets", transform=deployment.transform, buckets=suite, folder=own),
        Entrant(role="tuned", transform=deployment.transform, buckets=tuned, folder=own),
    ]


def _load(transform: Chain, folder: Path, experiment: Experiment, data: Data) -> FinalModel:
    return load_final_model(folder, dataclasses.replace(experiment, transforms=transform.members), data)


def _qualities(model: FinalModel, data: Data) -> Qualities:
    valid, test = (make_evaluator(model.score, data, part)(model.variables) for part in ("valid", "test"))
    return Qualities(data.selection_metric, valid, test)


def _in_turn(entrants: list[Entrant], systems: list[ModelSystem], p99_ms: float, mix: QueryMix, rounds: int) -> Contest:
    """Returns each entrant's closed-loop windows and rate searches, one of each a round, in another order each time."""
    closed, searches = [list[Window]() for _ in entrants], [list[RateSearch]() for _ in entrants]
    faults: list[str | None] = [None] * len(entrants)
    rng = np.random.default_rng(SEED)
    with quiet_heap(), LoadGenerator() as generator, stage("in turn", rounds * len(entrants)) as advance:
        for number in range(rounds):
            order = rng.permutation(len(entrants))
            for index in order:
                size = systems[index].buckets[-1]
                closed[index].append(closed_loop(systems[index], size, CLOSED_LOOP_S, MIN_QUERIES, SEED + number, mix))
            for index in order:
                system, seeds = systems[index], itertools.count(SEED + 1_000 * number)

                def probe(
                    rate_qps: float, n: int, system: ModelSystem = system, seeds: Iterator[int] = seeds
                ) -> Window:
                    return generator.measure(system, rate_qps, n, slo_ms=p99_ms, seed=next(seeds), mix=mix)

                capacity_qps = closed[index][-1].samples_per_s / mix.mean_samples
                search = alone(probe, search_rate(capacity_qps, p99_ms, PROBE_S, STEPS))
                searches[index].append(search)
                seen = (wrong_answers(system, w) or window_fault(w, p99_ms) for w in search.windows)
                faults[index] = faults[index] or next((fault for fault in seen if fault), None)
                rate = search.rate_qps * mix.mean_samples
                advance(f"{entrants[index].label} {rate:,.0f} samples/s{'' if search.confirmed else ' not confirmed'}")
    return Contest(closed, searches, faults)


def _write(
    deployment: Deployment,
    experiment: Experiment,
    entrants: list[Entrant],
    qualities: list[Qualities],
    fp32: Qualities,
    contest: Contest,
    facts: dict[str, Any],
    out: Path,
) -> None:
    """Writes the rows; who is best by hand is decided among those that keep the floor on validation."""
    mix, seed = mix_of(deployment), experiment.training.seed
    rates = {
        "server": [[search.rate_qps * mix.mean_samples for search in of_one] for of_one in contest.searches],
        "closed_loop": [[window.samples_per_s for window in of_one] for of_one in contest.closed],
    }
    figures = [_quality(quality, fp32, seed) for quality in qualities]
    floor = deployment.limits.quality_floor
    able = [
        i for i, e in enumerate(entrants) if e.role == "hand-made" and (figures[i]["validation_share"] or 0.0) >= floor
    ]
    best = {name: _fastest(able, of) for name, of in rates.items()}
    lines = []
    for index, entrant in enumerate(entrants):
        searches = contest.searches[index]
        row: dict[str, Any] = {
            "role": entrant.role,
            "label": entrant.transform.label,
            "transforms": [member.to_json() for member in entrant.transform.members],
            "buckets": list(entrant.buckets),
            "is_best_by_hand": {name: index == one for name, one in best.items()},
            "queries": mix.in_words(),
            "p99_limit_ms": deployment.limits.p99_ms,
            "quality": figures[index],
            "fault": contest.faults[index],
        }
        for name, of in rates.items():
            one = best[name]
            row[name] = {
                "rounds_samples_per_s": of[index],
                "samples_per_s": _json(_mean(of[index])),
                "over_best_by_hand": None if one is None else _json(_ratio(of[index], of[one])),
            }
        row["server"] |= {
            "confirmed": [search.confirmed for search in searches],
            "failed_at_qps": [search.failed_at_qps for search in searches],
            "padding_waste": [[window.padding_waste for window in search.windows] for search in searches],
        }
        lines.append(json.dumps(row | facts, allow_nan=False) + "\n")
    write_whole(out / CONTEST, lambda output: output.write("".join(lines).encode()))


def _fastest(able: list[int], rates: list[list[float]]) -> int | None:
    return max(able, key=lambda index: sum(rates[index]), default=None)


def _mean(rates: list[float]) -> Interval:
    return interval(rate_of(rates, [1.0] * len(rates)), [0] * len(rates))


def _ratio(rates: list[float], others: list[float]) -> Interval:
    """Returns the ratio of two entrants' mean rates, resampled by rounds, with its interval."""
    ones = [1.0] * len(rates)
    return paired_ratio(rate_of(rates, ones), rate_of(others, ones), [0] * len(rates))


def _json(found: Interval) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _quality(own: Qualities, fp32: Qualities, seed: int) -> dict[str, Any]:
    metric = own.metric
    parts = {"validation": (own.valid, fp32.valid), "test": (own.test, fp32.test)}
    found: dict[str, Any] = {"metric": metric, "protocol": own.test.protocol}
    for name, (quality, reference) in parts.items():
        found[name] = quality.metrics[metric]
        found[f"{name}_share"] = share_kept(metric, quality.metrics[metric], reference.metrics[metric])
    return found | {"test_share_ci95": retained_interval(own.test, fp32.test, metric, seed)}
