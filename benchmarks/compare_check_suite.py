"""Twenty rows for `benchmarks.compare_check`: two models, two variants, five sizes of queries.

The models are barely trained: only their speed counts.
"""

import dataclasses

from benchmarks.suite import Case, Measurement, Suite
from configs import dlrm_dcnv2_movielens_small, sasrec_movielens_small
from configs.suites.smoke import briefly
from recjax.config import Experiment, Serving
from recjax.transforms import chain, quantize


def check_suite(processes: int) -> Suite:
    """Returns the suite, to be measured in that many fresh processes."""
    sasrec = _with_buckets(sasrec_movielens_small.get_config(), 1, 8, 16, 32, 64)
    dlrm = _with_buckets(dlrm_dcnv2_movielens_small.get_config(), 1, 8, 32, 128, 512)
    variants = (chain(), chain(quantize(bits=8)))
    return Suite(
        name="compare_check",
        description="SASRec and DLRM-DCNv2, barely trained, in closed loops",
        cases=tuple(Case(experiment=experiment, variants=variants) for experiment in (sasrec, dlrm)),
        measurement=Measurement(
            scenarios=("single_stream", "multi_stream", "offline"),
            processes=processes,
            rounds=6,
            window_s=0.06,  # many short windows: latencies change from one to the next more than within one
            min_queries=5,
        ),
    )


def _with_buckets(experiment: Experiment, *buckets: int) -> Experiment:
    return dataclasses.replace(briefly(experiment), serving=Serving(buckets=buckets, slo_ms=experiment.serving.slo_ms))
