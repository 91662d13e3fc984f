"""SASRec on MovieLens 100K: next film out of 1,682, from the newest 50.

Paper: Kang and McAuley, Self-Attentive Sequential Recommendation (ICDM 2018).
Command: recjax train configs/ml_100k/sasrec.py
Protocol: leave_one_out/full (a user's last item is the test, all unseen ones are ranked), the newest 50 of a history.
Expected: test HR@10 .200, NDCG@10 .107: a plain JAX version at length 100, which takes 80 epochs.
Measured: NDCG@10 0.1104 ±0.0005 over 3 seeds, 322 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.sasrec import SASRecConfig

SEARCH: dict[str, tuple] = {
    "model.dropout_rate": (0.3, 0.4, 0.5),
    "model.heads": (1, 2),
    "training.learning_rate": (1e-3, 2e-3, 3e-3),
    "training.epochs": (40, 60),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="sasrec",
        dataset=under("leave_one_out/full", source="ml-100k", max_history=50, windows="drawn"),
        model=SASRecConfig(embedding_dim=64, heads=2, mlp_dims=(256, 256), dropout_rate=0.4),
        training=Training(epochs=60, batch_size=64, learning_rate=3e-3, warmup_steps=100, decay="cosine"),
        finetuning=Training(epochs=3, batch_size=64, learning_rate=3e-4, decay="cosine", seed=1),
    )
