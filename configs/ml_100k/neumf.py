"""NeuMF on MovieLens 100K: what else would this user watch?

Paper: He et al., Neural Collaborative Filtering (WWW 2017).
Command: recjax train configs/ml_100k/neumf.py
Protocol: random_8_1_1/full.
Expected: NDCG@10 .2790, Recall@10 .2358 (RecBole 1.2.1).
Measured: NDCG@10 0.3042 ±0.0073 over 3 seeds, 341 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.neumf import NeuMFConfig

SEARCH: dict[str, tuple] = {
    "training.learning_rate": (1e-3, 2e-3),
    "training.weight_decay": (0.0, 0.1, 0.3),
    "model.embedding_dropout_rate": (0.0, 0.2, 0.4),
    "model.negatives": (4, 8),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=40, batch_size=2048, learning_rate=1e-3, validation_every=2, patience=5)
    return Experiment(
        name="neumf",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=NeuMFConfig(factors=64, embedding_dim=64, mlp=(128, 64), embedding_dropout_rate=0.4, negatives=8),
        training=training,
        finetuning=training,
    )
