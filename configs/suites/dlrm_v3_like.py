"""An MLPerf-like DLRMv3: its HSTU, its 2,048 candidates a request and its latency limit, after up to 256 items.

A query is one request, and a sample is the same: a history with all of its candidates. `docs/workloads.md` says what is
MLCommons' and what is not; no row of it is an official result. Weights come from a training that only makes them real,
and all variants are made after it, as MLCommons' closed division wants it. A processor of few cores cannot answer
within the limit: its rows of the server scenario are invalid then, and say so. For an accelerator:
`--set dataset.max_history=8192 --set serving.buckets=1,8,16` has histories of MLCommons' lengths.
"""

from benchmarks.suite import Case, Measurement, Suite
from configs import dlrm_v3_like
from recjax.transforms import bf16, chain, compress_embeddings, quantize

AFTER = quantize(when="after")
VARIANTS = (
    chain(),
    chain(bf16()),
    chain(AFTER),
    chain(bf16(), AFTER),
    chain(bf16(), quantize(when="after", products=True)),
    chain(bf16(), compress_embeddings("int8")),
)


def get_suite() -> Suite:
    """Returns the suite."""
    return Suite(
        name="dlrm_v3_like",
        description="MLPerf-like DLRMv3: 256 items, 2,048 candidates, tables at 1/10,000, barely trained: speed alone",
        cases=(Case(experiment=dlrm_v3_like.get_config(), variants=VARIANTS, from_start=True),),
        measurement=Measurement(
            scenarios=("single_stream", "server"),
            rounds=5,
            window_s=0.5,
            min_queries=5,
            probe_s=2.0,
            search_steps=3,
            curve=(),
        ),
    )
