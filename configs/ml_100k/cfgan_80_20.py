"""CFGAN on MovieLens 100K under the split of its paper: movies to recommend.

Paper: Chae et al., CFGAN: A Generic Collaborative Filtering Framework based on GANs (CIKM 2018).
Command: recjax train configs/ml_100k/cfgan_80_20.py
Protocol: random_80_20, of whose training part a tenth chooses the epoch: the model learns from 72% of the ratings.
Expected: P@5 .444, P@20 .294, NDCG@5 .476, NDCG@20 .433 (paper; it learns from 80%, and of items' vectors).
Measured: NDCG@10 0.4363 ±0.0009 over 3 seeds, 22 s each on AMD EPYC (1 cores) (docs/quality.md).
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
        name="cfgan_80_20",
        dataset=under("random_80_20", source="ml-100k"),
        model=CFGANConfig(
            generator_dims=(200,), discriminator_dims=(64,), dropout_rate=0.5, l2=3e-4, partial_masking=0.05
        ),
        training=training,
        finetuning=training,
    )
