"""Does everything run? Both models for an epoch or two, untransformed and through the full chain.

The figures mean nothing: models are untrained and windows short.
"""

import dataclasses

from benchmarks.suite import Case, Measurement, Suite
from configs import dlrm_dcnv2_movielens_small, sasrec_movielens_small
from recjax.config import Experiment, Serving
from recjax.transforms import chain, prune, quantize, shrink

VARIANTS = (chain(), chain(prune(0.5), shrink(finetune_epochs=0), quantize(bits=8)))


def briefly(experiment: Experiment) -> Experiment:
    """Returns the experiment on its 20-core, with one epoch of training, one of fine-tuning, and three batch sizes."""
    return dataclasses.replace(
        experiment,
        dataset=dataclasses.replace(experiment.dataset, max_history=20, min_interactions=20),
        training=dataclasses.replace(experiment.training, epochs=1, batch_size=256),
        finetuning=dataclasses.replace(experiment.finetuning, epochs=1, batch_size=256),
        serving=Serving(buckets=(1, 8, 64), slo_ms=experiment.serving.slo_ms),
    )


def get_suite() -> Suite:
    """Returns the suite."""
    cases = (sasrec_movielens_small.get_config(), dlrm_dcnv2_movielens_small.get_config())
    return Suite(
        name="smoke",
        description="both models, barely trained, fp32 and the full chain: does everything run?",
        cases=tuple(Case(experiment=briefly(experiment), variants=VARIANTS) for experiment in cases),
        measurement=Measurement(rounds=2, window_s=0.1, min_queries=5, probe_s=0.1, search_steps=2),
    )
