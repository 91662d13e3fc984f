"""CFGAN on MovieLens 100K: movies to recommend, from the set of those watched.

Paper: Chae et al., CFGAN: A Generic Collaborative Filtering Framework based on GANs (CIKM 2018).
Command: recjax train configs/ml_100k/cfgan.py
Protocol: random_8_1_1/full (all ratings as implicit feedback, a tenth of a user's items is the test, all ranked).
Expected: no reference; must beat popularity's NDCG@10 1.5 times (cfgan_80_20.py has the paper's figures).
Measured: NDCG@10 0.3343 ±0.0078 over 3 seeds, 23 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.cfgan import CFGANConfig

SEARCH: dict[str, tuple] = {
    "model.zero_reconstruction": (0.05, 0.1),
    "model.partial_masking": (0.05, 0.1, 0.2),
    "model.dropout_rate": (0.5, 0.7),
    "model.l2": (1e-4, 3e-4),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=250, batch_size=128, learning_rate=1e-3, validation_every=10, patience=4)
    return Experiment(
        name="cfgan",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=CFGANConfig(generator_dims=(200,), discriminator_dims=(64,), dropout_rate=0.5, l2=1e-4),
        training=training,
        finetuning=training,
    )
