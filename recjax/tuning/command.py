"""`recjax tune`: an experiment and a goal in, the frontier and a deployment file out."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from recjax.config import Experiment, check
from recjax.errors import UserError
from recjax.hardware.device import describe_device
from recjax.hardware.software import describe_software
from recjax.load.client import LoadGenerator
from recjax.progress import console
from recjax.serving.deployment import DeployedLimits, DeployedServing, Deployment, path_from, write_deployment
from recjax.training.checkpoint import experiment_identity
from recjax.training.pipeline import load_data
from recjax.tuning.finish import remeasure
from recjax.tuning.frontier import baseline_of, choose, frontier_table, last_ones, pruned_in_words, write_frontier
from recjax.tuning.goal import Goal, hourly_price, parse_bytes, parse_queries, parse_seconds
from recjax.tuning.remeasure import Remeasured
from recjax.tuning.space import space_of
from recjax.tuning.stages import Bench, seeds_from
from recjax.tuning.study import open_budget, require_optuna, search
from recjax.tuning.trial import Trial
from recjax.tuning.variants import Variants

FRONTIER, DEPLOYMENT = "frontier.jsonl", "deployment.toml"
WIDTH = 160  # of the table, where there is no terminal
LAST_SEEDS = 1_000_000  # away from those of the search: other arrivals, other rows


def tune_command(experiment: Experiment, options: argparse.Namespace, devices: Sequence[jax.Device]) -> None:
    """Searches, measures the frontier anew, and writes frontier.jsonl and deployment.toml into the folder.

    Args:
      experiment: as the config gives it.
      options: of the command line.
      devices: that may answer together; the first one is the default.

    Raises:
      UserError: options that cannot be, another study in the folder, or nothing that holds the limits.
    """
    total_s = parse_seconds("--budget", options.budget)
    check(options.seed >= 0, "--seed", options.seed, ">= 0")
    goal = goal_of(experiment, options, devices[0])
    require_optuna()
    folder: Path = options.out or Path("runs") / f"tune-{experiment.name}"
    data = load_data(experiment)
    plain = dataclasses.replace(experiment, transforms=())
    device = describe_device(devices[:1])
    identity = {
        "experiment": experiment_identity(experiment),
        "goal": goal.to_json(),
        "device": {"platform": device["platform"], "kind": device["kind"], "count": len(devices)},
        "seed": options.seed,
    }
    budget = open_budget(folder, total_s, identity)
    variants = Variants(plain, data, folder)
    try:
        space = space_of(experiment, variants.base(), goal.mix, len(devices))
        with LoadGenerator() as generator:
            first_seed = 2 * LAST_SEEDS * options.seed
            bench = Bench(variants, goal, generator, seeds_from(first_seed))
            file = folder / FRONTIER
            trials = search(
                space,
                bench,
                folder,
                budget,
                options.seed,
                lambda done: write_frontier(file, done, {}, None, variants.metric),
            )
            chosen_ones = last_ones(trials, variants.metric)
            if not chosen_ones:
                raise UserError(
                    f"nothing holds the limits: {pruned_in_words(trials)}; {file} has each with its reason; looser "
                    "limits or a larger --budget may find one"
                )
            last = bench._replace(seeds=seeds_from(first_seed + LAST_SEEDS))
            remeasured = remeasure(chosen_ones, last, options.seed, lambda: budget.left_s <= 0)
    except KeyboardInterrupt:
        console.print("the same command goes on from the last finished trial", markup=False)
        raise
    finally:
        budget.save()
    number = choose(remeasured)
    write_frontier(file, trials, remeasured, number, variants.metric)
    took_s = budget.spent_s
    _print(trials, remeasured, number, variants, took_s, total_s)
    if number is None:
        raise UserError(f"no finalist's rate was confirmed; {file} says why; give more time, or a quieter machine")
    trial = next(trial for trial in trials if trial.number == number)
    deployment = deployment_of(trial, remeasured[number], experiment, options, variants, goal, device, folder)
    spent = {"budget_s": total_s, "took_s": took_s}
    write_deployment(dataclasses.replace(deployment, measured=deployment.measured | spent), folder / DEPLOYMENT)
    console.print(f"wrote {folder / DEPLOYMENT} and {file}", markup=False)


def goal_of(experiment: Experiment, options: argparse.Namespace, device: jax.Device) -> Goal:
    """Returns the goal that the command line names; raises UserError for one that cannot be."""
    return Goal(
        p99_ms=experiment.serving.slo_ms if options.p99_ms is None else options.p99_ms,
        memory_bytes=None if options.memory is None else parse_bytes("--memory", options.memory),
        usd_per_million=options.price,
        quality_floor=options.quality_floor,
        usd_per_hour=hourly_price(device.device_kind, options.usd_per_hour),
        mix=parse_queries(options.queries),
    )


def deployment_of(
    trial: Trial,
    found: Remeasured,
    experiment: Experiment,
    options: argparse.Namespace,
    variants: Variants,
    goal: Goal,
    device: dict[str, object],
    folder: Path,
) -> Deployment:
    """Returns what the file says of the chosen trial."""
    candidate = trial.candidate
    reasons = {{"over_baseline": "over_fp32"}.get(name, name): why for name, why in found.reasons.items()}
    names = ("usd_per_million", "failed_at_samples_per_s", "over_fp32", "test_share", "test_share_ci95")
    memory = {} if trial.memory_bytes is not None else {"memory_bytes": trial.reasons["memory_bytes"]}
    software = describe_software()
    return Deployment(
        name=experiment.name,
        config=path_from(folder, Path(options.config)),
        overrides=tuple(options.overrides),
        model=path_from(folder, variants.folder_of(candidate.transform)),
        transform=candidate.transform,
        platform=str(device["platform"]),
        serving=DeployedServing(
            buckets=trial.buckets,
            max_batch=trial.buckets[-1],
            devices=trial.devices,
            model_devices=trial.model_devices,
            top_k=experiment.serving.top_k,
        ),
        limits=DeployedLimits(
            p99_ms=goal.p99_ms,
            quality_floor=goal.quality_floor,
            queries=goal.mix.in_words(),
            memory_bytes=goal.memory_bytes,
            usd_per_million=goal.usd_per_million,
        ),
        measured={
            "device": device["kind"],
            "samples_per_s": found.samples_per_s,
            "failed_at_samples_per_s": found.failed_at_samples_per_s,
            "over_fp32": found.over_baseline,
            "p99_ms": None if found.p99_ms is None else found.p99_ms[0],
            "p99_ms_ci95": None if found.p99_ms is None or found.p99_ms[1] is None else list(found.p99_ms[1:]),
            "memory_bytes": trial.memory_bytes,
            "parameter_bytes": trial.parameter_bytes,
            "usd_per_million": found.usd_per_million,
            "quality_metric": variants.metric,
            "validation": trial.validation,
            "validation_share": trial.validation_share,
            "test": found.test,
            "test_share": found.test_share,
            "test_share_ci95": None if found.test_share_ci95 is None else list(found.test_share_ci95),
            "reasons": {name: reasons[name] for name in names if name in reasons} | memory,
        },
        environment={
            "versions": software["versions"],
            "flags": software["flags"],
            "os": software["os"],
            "commit": software["git"]["commit"],
            "modified": software["git"]["modified"],
            "diff": software["git"].get("diff"),
            "seed": options.seed,
        },
        folder=folder,
    )


def _print(
    trials: Sequence[Trial],
    remeasured: dict[int, Remeasured],
    chosen: int | None,
    variants: Variants,
    took_s: float,
    total_s: float,
) -> None:
    output = Console(width=None if sys.stdout.isatty() else WIDTH)
    baseline = baseline_of([trial for trial in trials if trial.number in remeasured])
    output.print(frontier_table(trials, remeasured, chosen, variants.metric))
    number = "–" if baseline is None else baseline.number
    output.print(
        f"{pruned_in_words(trials)}; {took_s:.0f} s of a budget of {total_s:.0f} s; * is the chosen one, fp32 is trial "
        f"{number}; rates hold the p99 limit in 3 windows of 3, measured in turn",
        markup=False,
        highlight=False,
    )
