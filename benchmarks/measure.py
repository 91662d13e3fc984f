"""Measures the variants of one case against each other in one process: closed loops in turn, then the server's rate."""

import dataclasses
import datetime
import functools
import itertools
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.contestants import Contestant
from benchmarks.measured import Measured, window_facts
from benchmarks.suite import MULTI_STREAM_SAMPLES, Measurement
from benchmarks.timing import CompileCounter
from benchmarks.turns import await_turn
from recjax.config import Serving
from recjax.load.checks import cached_answers, window_fault, wrong_answers
from recjax.load.client import LoadGenerator
from recjax.load.closed_loop import closed_loop, warm_up
from recjax.load.mlperf import measure_with_loadgen
from recjax.load.mlperf_log import LoadGenError
from recjax.load.quiet_heap import quiet_heap
from recjax.load.rate_search import (
    CONFIRMATIONS,
    MIN_CONFIRMING_QUERIES,
    MIN_PROBE_QUERIES,
    Asked,
    confirm_rate,
    search_rate,
)
from recjax.load.system import ModelSystem
from recjax.load.window import Window, nothing_measured
from recjax.measurement.early_stopping import most_over_limit
from recjax.measurement.energy import Energy, energy_between, read_energy
from recjax.measurement.host_noise import HostWatch
from recjax.measurement.jitter import probe_jitter
from recjax.measurement.memory_growth import resident_bytes
from recjax.progress import stage
from recjax.training.memory import default_device

COMPILATIONS = CompileCounter()
NULL_RATE_QPS = 1_000.0  # at which the null model is served: the floor of the harness
_Found = tuple[list[Window], dict[str, Any] | None]  # the windows to report, and the search as it stands in a row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where and as what this process measures.

    Attributes:
      process: its number, from 0; the first one searches the servers' rates.
      platform: of the device.
      n_devices: that answer together.
      name: of the experiment.
    """

    process: int
    platform: str
    n_devices: int
    name: str


class _Memory:
    """What this process holds, read after every window; the growth of a window is all that came since the last.

    None stands for what the system or the device does not tell.
    """

    def __init__(self) -> None:
        self.held = self._read()

    def growth(self) -> tuple[int | None, int | None]:
        """Returns the bytes that came since the last call, in host memory and on the device."""
        before, self.held = self.held, self._read()
        host, device = (
            None if now is None or then is None else now - then for now, then in zip(self.held, before, strict=True)
        )
        return host, device

    def _read(self) -> tuple[int | None, int | None]:
        return resident_bytes()[0], (default_device().memory_stats() or {}).get("bytes_in_use")


class _Watched:
    """Collects the windows of one contestant in one scenario, and what happened around them."""

    def __init__(self, contestant: Contestant, place: Place, memory: _Memory) -> None:
        self.contestant, self.place, self._memory = contestant, place, memory
        self.started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.windows: list[Window] = []
        self.recompiles = 0
        self.fault: str | None = None
        self._held = memory.held
        self._watched: list[tuple[weakref.ref[Window], dict[str, Any]]] = []
        self._noises: list[Mapping[str, Any]] = []
        self._energies: list[Energy] = []
        self._growths: list[tuple[int | None, int | None]] = []

    def watch(self, measure: Callable[[], Window], offered_qps: float | None = None) -> Window:
        """Returns the window that `measure` gives, having noted what happened around it.

        After a LoadGen that failed there is no other try: windows with nothing in them keep the place.

        Args:
          measure: answers queries.
          offered_qps: the rate at which they come, in an open loop.
        """
        await_turn()
        compiled = COMPILATIONS.count
        energy, started_at_s = read_energy(self.place.platform, self.place.n_devices), time.time()
        cpu_started_s = time.process_time()
        with HostWatch() as host:
            window = nothing_measured(offered_qps)
            if self.fault is None:
                try:
                    window = measure()
                except LoadGenError as error:
                    self.fault = str(error)
        own_cpu_s = time.process_time() - cpu_started_s + (window.generator_cpu_share or 0.0) * window.duration_s
        self._energies.append(energy_between(energy, read_energy(self.place.platform, self.place.n_devices)))
        self.recompiles += COMPILATIONS.count - compiled
        self._noises.append(dataclasses.asdict(host.noise) | {"own_cpu_s": own_cpu_s})
        self._growths.append(self._memory.growth())
        self._watched.append((weakref.ref(window), window_facts(window, started_at_s)))
        return window

    @property
    def taken(self) -> int:
        """Returns how many windows were watched."""
        return len(self._watched)

    def measured(self, scenario: str, batch_size: int, **known: Any) -> Measured:
        """Returns those of the windows that were watched that are in `windows`, as a record."""
        kept = [
            index for index, (window, _) in enumerate(self._watched) if any(window() is one for one in self.windows)
        ]
        used, grown = [self._energies[index] for index in kept], [self._growths[index] for index in kept]
        reason = next((energy.reason for energy in used if energy.joules is None), None)
        return Measured(
            label=self.contestant.label,
            scenario=scenario,
            batch_size=batch_size,
            process=self.place.process,
            started_at=self.started_at,
            windows=[self._watched[index][1] for index in kept],
            latency_ms=[window.latency_ms for window in self.windows],
            parts_ms=[window.parts_ms for window in self.windows],
            recompiles=self.recompiles,
            host={"windows": [self._noises[index] for index in kept], "jitter": dataclasses.asdict(probe_jitter())},
            energy_j=None if reason else sum(energy.joules or 0.0 for energy in used),
            energy_reason=reason,
            held_bytes=self._held,
            host_growth_bytes=_known([host for host, _ in grown]),
            device_growth_bytes=_known([device for _, device in grown]),
            **({"search": None, "fault": self.fault} | known),
        )


def measure_case(
    contestants: Sequence[Contestant], settings: Measurement, serving: Serving, place: Place, rates: Mapping[str, float]
) -> Iterator[list[Measured]]:
    """Yields, scenario by scenario, what was measured of each contestant, in their order.

    The contestants take turns, round after round, so that a change of the machine's speed falls on all of them;
    speed ratios of closed loops are taken within a round.

    Args:
      contestants: fp32 first, the null model last.
      settings: of the suite.
      serving: of the experiment.
      place: this process.
      rates: of the server scenario by label, at which to begin; empty in the first process, which searches them.
    """
    best_rate = np.zeros(len(contestants))
    for contestant in contestants:
        warm_up(contestant.system)
    caching = _look_for_caches(contestants, settings, place)
    with quiet_heap():
        memory = _Memory()
        for scenario, size in closed_scenarios(settings, serving):
            title = f"{place.name}: {scenario}, {size} a query"
            measured = _measure_closed_loop(title, contestants, scenario, size, settings, place, memory)
            best_rate = np.maximum(best_rate, [np.median(one.samples_per_s) for one in measured])
            yield [_with_caching(one, seen) for one, seen in zip(measured, caching, strict=True)]
            caching = [{} for _ in contestants]
        if "server" in settings.scenarios:
            title = f"{place.name}: server, p99 within {serving.slo_ms:g} ms"
            capacity_qps = best_rate / settings.queries.mean_samples
            yield _measure_server(title, contestants, settings, serving, place, memory, capacity_qps, rates)


def closed_scenarios(settings: Measurement, serving: Serving) -> list[tuple[str, int]]:
    """Returns the closed-loop scenarios of a suite with their samples a query, in order."""
    closed = [("single_stream", 1), ("multi_stream", MULTI_STREAM_SAMPLES)]
    batches = [size for size in serving.buckets if size > MULTI_STREAM_SAMPLES]
    if settings.loadgen == "mlperf":
        batches = batches[-1:]  # LoadGen's offline scenario is one query, which fills the largest batches
    closed += [("offline", size) for size in batches]
    return [(scenario, size) for scenario, size in closed if scenario in settings.scenarios]


def _measure_closed_loop(
    title: str,
    contestants: Sequence[Contestant],
    scenario: str,
    size: int,
    settings: Measurement,
    place: Place,
    memory: _Memory,
) -> list[Measured]:
    watched = [_Watched(contestant, place, memory) for contestant in contestants]
    with stage(title, settings.rounds * len(contestants) + 1) as advance:
        for number in range(settings.rounds):
            seed = settings.seed + settings.rounds * place.process + number
            # Another order each round: nobody is always the first after a pause, or after the same neighbour.
            for index in np.random.default_rng([seed, size]).permutation(len(contestants)):
                one, system = watched[index], contestants[index].system
                window = one.watch(functools.partial(_closed_window, system, scenario, size, settings, seed))
                one.windows.append(window)
                advance(f"{contestants[index].label} {window.samples_per_s:,.0f} samples/s")
        measured = [one.measured(scenario, size) for one in watched]
        advance(_fp32_and_best(contestants, measured))
    return measured


def _closed_window(system: ModelSystem, scenario: str, size: int, settings: Measurement, seed: int) -> Window:
    if settings.loadgen == "recjax":
        return closed_loop(system, size, settings.window_s, settings.min_queries, seed, settings.queries)
    fewest = size if scenario == "offline" else settings.min_queries  # of offline, samples
    window = measure_with_loadgen(
        system, scenario, fewest, seed=seed, duration_s=settings.window_s, mix=settings.queries
    )
    return dataclasses.replace(window, kept_answers=())  # a closed loop's are not checked; held, they look like a leak


def _look_for_caches(contestants: Sequence[Contestant], settings: Measurement, place: Place) -> list[dict[str, Any]]:
    """Returns for each contestant how much faster a repeated query is, in the first process.

    It comes before all windows: a cache that has seen the whole pool of requests looks like a fast system.
    """
    if place.process:
        return [{} for _ in contestants]
    with stage(f"{place.name}: looking for caches of answers", len(contestants)) as advance:
        found = []
        for contestant in contestants:
            await_turn()
            seen, fault = cached_answers(contestant.system, settings.seed)
            found.append({"answer_caching": seen | {"cached": fault is not None}, "fault": fault})
            advance(f"{contestant.label}: fresh queries take {seen['fresh_over_repeated']:.2f} times as long")
    return found


def _measure_server(
    title: str,
    contestants: Sequence[Contestant],
    settings: Measurement,
    serving: Serving,
    place: Place,
    memory: _Memory,
    capacity_qps: np.ndarray,
    rates: Mapping[str, float],
) -> list[Measured]:
    """Returns each contestant at the highest rate that holds its limit; the null model at NULL_RATE_QPS.

    The first process searches that rate; the others confirm it, each anew, and lower it where it does not hold. Their
    searches take turns, window by window, as the closed loops do.
    """
    watched = [_Watched(contestant, place, memory) for contestant in contestants]
    searches = [
        _search(contestant, float(capacity), rates.get(contestant.label), settings, serving.slo_ms)
        for contestant, capacity in zip(contestants, capacity_qps, strict=True)
    ]
    # A new draw of arrivals a window, the same ones for every contestant.
    seeds = [itertools.count(settings.seed + 1_000 * place.process) for _ in contestants]
    found: dict[int, _Found] = {}
    rng = np.random.default_rng([settings.seed, place.process])
    expected = CONFIRMATIONS if rates else settings.search_steps + CONFIRMATIONS + len(settings.curve)
    with LoadGenerator() as generator, stage(title, len(contestants) * expected) as advance:
        asked = [next(search) for search in searches]
        while len(found) < len(contestants):
            for index in rng.permutation([index for index in range(len(contestants)) if index not in found]):
                system, seed = contestants[index].system, next(seeds[index])
                measure = functools.partial(
                    _open_window, generator, system, asked[index], settings, serving.slo_ms, seed
                )
                window = watched[index].watch(measure, asked[index].rate_qps)
                try:
                    asked[index] = searches[index].send(window)
                except StopIteration as end:
                    found[index] = end.value
                p99_ms = np.percentile(window.latency_ms, 99) if window.queries else float("nan")
                left = sum(max(1, expected - one.taken) for i, one in enumerate(watched) if i not in found)
                advance(f"{contestants[index].label} {window.offered_qps:,.0f} queries/s, p99 {p99_ms:.2f} ms", left)
        measured = []
        for index, one in enumerate(watched):
            windows, search = found[index]
            one.windows += windows
            faults = (wrong_answers(one.contestant.system, w) or window_fault(w, serving.slo_ms) for w in windows)
            fault = one.fault or next((fault for fault in faults if fault), None)
            measured.append(one.measured("server", serving.buckets[-1], search=search, fault=fault))
        advance(_fp32_and_best(contestants, measured), 0)
    return measured


def _search(
    contestant: Contestant, capacity_qps: float, rate_qps: float | None, settings: Measurement, slo_ms: float
) -> Generator[Asked, Window, _Found]:
    """Asks for windows of a contestant; returns those to report, and how their rate was found.

    Args:
      contestant: whose windows they are.
      capacity_qps: what its closed loops answered, 0 if there were none.
      rate_qps: to confirm; None searches it.
      settings: of the suite.
      slo_ms: limit of p99.
    """
    if contestant.is_null or not (capacity_qps or rate_qps):
        # Without a capacity, as after a LoadGen that failed in the closed loops, there is nothing to search.
        n = max(MIN_CONFIRMING_QUERIES, round(2 * NULL_RATE_QPS * settings.probe_s))
        return [(yield Asked(NULL_RATE_QPS, n, to_the_end=True))], None
    if rate_qps:
        confirmed = yield from confirm_rate(rate_qps, slo_ms, 2 * settings.probe_s)
        return list(confirmed.windows), confirmed.in_row()
    found = yield from search_rate(capacity_qps, slo_ms, settings.probe_s, settings.search_steps)
    curve = []
    for rate in (share * found.rate_qps for share in settings.curve):
        n = max(MIN_PROBE_QUERIES, round(rate * settings.probe_s))
        curve.append(_point((yield Asked(rate, n, to_the_end=True)), rate, slo_ms))
    return list(found.windows), found.in_row() | {"curve": curve}


def _open_window(
    generator: LoadGenerator, system: ModelSystem, asked: Asked, settings: Measurement, slo_ms: float, seed: int
) -> Window:
    if settings.loadgen == "mlperf":
        of_loadgen = functools.partial(measure_with_loadgen, rate_qps=asked.rate_qps, slo_ms=slo_ms)
        return of_loadgen(system, "server", asked.n_queries, seed=seed, mix=settings.queries)
    most_over = (
        None if asked.to_the_end else most_over_limit(0.99, asked.n_queries)
    )  # with more, p99 cannot hold any more
    return generator.measure(
        system,
        asked.rate_qps,
        asked.n_queries,
        slo_ms=slo_ms,
        seed=seed,
        arrivals=settings.arrivals,
        mix=settings.queries,
        most_over=most_over,
    )


def _point(window: Window, rate_qps: float, slo_ms: float) -> dict[str, Any]:
    """Returns a server's latency at a rate below the one found; none, and why, of a window that says nothing."""
    fault = window_fault(window, slo_ms)
    if fault is None and (window.failed_early or window.overloaded):
        fault = "the window was ended early: p99 was above the limit"
    p50, p99 = (None, None) if fault else np.percentile(window.latency_ms, [50, 99], method="inverted_cdf")
    point = {"rate_qps": rate_qps, "p50_ms": p50, "p99_ms": p99, "padding_waste": window.padding_waste}
    return point | ({"fault": fault} if fault else {})


def _with_caching(record: Measured, seen: Mapping[str, Any]) -> Measured:
    """Returns the record with what was seen of caches, whose fault is worse than that of a window."""
    return dataclasses.replace(record, **{**seen, "fault": seen.get("fault") or record.fault})


def _known(growths: Sequence[int | None]) -> list[int] | None:
    """Returns the growths, None if one is not known."""
    known = [growth for growth in growths if growth is not None]
    return known if len(known) == len(growths) else None


def _fp32_and_best(contestants: Sequence[Contestant], measured: Sequence[Measured]) -> str:
    """Returns fp32's rate and the highest, in words; the null model does not compete."""
    rates = [float(np.median(m.samples_per_s)) for c, m in zip(contestants, measured, strict=True) if not c.is_null]
    if not rates:
        return ""
    best = int(np.argmax(rates))
    return f"fp32 {rates[0]:,.0f} samples/s" + (f", {contestants[best].label} {rates[best]:,.0f}" if best else "")
