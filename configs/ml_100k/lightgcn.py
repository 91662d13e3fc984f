"""LightGCN on MovieLens 100K: BPR on vectors that are smoothed over the graph of who has seen what.

Paper: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation (SIGIR 2020).
Command: recjax train configs/ml_100k/lightgcn.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: test NDCG@10 of at least .2931, what BPR has in RecBole 1.2.1 (measured under this protocol); no reference of
its own here. On MovieLens 1M it has 1.06 times BPR's (RecBole-GNN).
Measured: NDCG@10 0.3226 ±0.0067 over 3 seeds, 48 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.lightgcn import LightGCNConfig

SEARCH: dict[str, tuple] = {
    "model.layers": (1, 2, 3),
    "model.negatives": (1, 4),
    "model.l2": (3e-4, 1e-3, 2e-3),
    "training.learning_rate": (1e-2, 2e-2),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=70, batch_size=8192, learning_rate=2e-2, validation_every=5, patience=4)
    return Experiment(
        name="lightgcn",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=LightGCNConfig(embedding_dim=64, layers=2, negatives=4, l2=1e-3),
        training=training,
        finetuning=training,
    )
