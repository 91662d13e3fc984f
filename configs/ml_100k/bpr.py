"""BPR on MovieLens 100K: matrix factorisation that ranks what a user has above what not.

Paper: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback (UAI 2009).
Command: recjax train configs/ml_100k/bpr.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: test NDCG@10 .2931, RecBole 1.2.1 with its defaults (measured under this protocol).
Measured: NDCG@10 0.3104 ±0.0086 over 3 seeds, 31 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.bpr import BPRConfig

SEARCH: dict[str, tuple] = {
    "model.negatives": (1, 2, 4, 8),
    "model.l2": (1e-3, 3e-3, 6e-3, 1e-2),
    "model.dropout_rate": (0.0, 0.2, 0.4),
    "training.learning_rate": (1e-3, 3e-3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=100, batch_size=2048, learning_rate=1e-3, validation_every=2, patience=4)
    return Experiment(
        name="bpr",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=BPRConfig(embedding_dim=64, negatives=8, l2=1e-3, dropout_rate=0.4),
        training=training,
        finetuning=training,
    )
