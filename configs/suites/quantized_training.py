"""Does training in integers reach fp32's quality? Four models trained from the start, forward and backward in int8.

`python -m benchmarks.seeds --suite=quantized_training --seeds=3` compares over seeds, which is the figure to trust:
two trainings that round in other places end at other parameters. `make data` fetches MovieLens 100K.
"""

import dataclasses

from benchmarks.suite import Measurement, Suite
from configs.suites import transforms
from recjax.transforms import chain, quantize

VARIANTS = (
    chain(),
    chain(quantize(backward_bits=8)),
    chain(quantize(backward_bits=8, backend="qwix")),
)


def get_suite() -> Suite:
    """Returns the suite, of the models of the suite `transforms`."""
    cases = transforms.get_suite().cases
    return Suite(
        name="quantized_training",
        description="int8 forward and backward from the first step: SASRec, DLRM-DCNv2, MultVAE and an LSTM",
        cases=tuple(dataclasses.replace(case, variants=VARIANTS, from_start=True) for case in cases),
        measurement=Measurement(scenarios=("offline",), rounds=5, window_s=0.1, min_queries=5, train_window_s=2.0),
    )
