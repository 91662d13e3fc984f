"""iALS on MovieLens 100K: weighted matrix factorisation, solved sweep by sweep.

Paper: Rendle et al., Revisiting the Performance of iALS on Item Recommendation Benchmarks (RecSys 2022).
Command: recjax train configs/ml_100k/ials.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: no reference under this protocol; must beat popularity 1.5x. Recommenders.jl has NDCG@10 .440 for another
  matrix factorisation under random_80_20, ItemKNN .399, popularity .220.
Measured: NDCG@10 0.3338 ±0.0101 over 3 seeds, 7 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.ials import IALSConfig

SEARCH: dict[str, tuple] = {
    "model.unobserved": (0.3, 0.5, 0.7, 1.0),
    "model.l2": (0.003, 0.006, 0.01, 0.015),
    "model.l2_scaling": (0.8, 1.0),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=20, patience=5)
    return Experiment(
        name="ials",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=IALSConfig(embedding_dim=64, unobserved=0.6, l2=0.01),
        training=training,
        finetuning=training,
    )
