"""An MLPerf-like DLRMv2: its layers, its 26 bags of ids and its latency limit, over a hundredth of its tables.

`docs/workloads.md` says what is MLCommons' and what is not; no row of it is an official result. Weights come from a
training that only makes them real, so quality tells what a variant keeps of fp32's and no more. All variants are made
after training, as MLCommons' closed division wants it.
"""

from benchmarks.suite import Case, Measurement, Suite
from configs import dlrm_v2_like
from recjax.load.queries import QueryMix
from recjax.transforms import bf16, chain, compress_embeddings, quantize

AFTER = quantize(when="after")
VARIANTS = (
    chain(),
    chain(bf16()),
    chain(AFTER),
    chain(compress_embeddings("int8")),
    chain(compress_embeddings("int8"), AFTER),
)


def get_suite() -> Suite:
    """Returns the suite."""
    return Suite(
        name="dlrm_v2_like",
        description="MLPerf-like DLRMv2 on synthetic samples, tables at 1/100, barely trained: speed, not quality",
        cases=(Case(experiment=dlrm_v2_like.get_config(), variants=VARIANTS, from_start=True),),
        measurement=Measurement(
            scenarios=("offline", "server"),
            rounds=5,
            window_s=0.2,
            min_queries=5,
            probe_s=0.5,
            search_steps=3,
            curve=(),
            queries=QueryMix(sizes="dlrm_v2"),
        ),
    )
