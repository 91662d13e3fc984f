"""HSTU on MovieLens 100K: next film out of 1,682, from the newest 50 and when they were rated.

Paper: Zhai et al., Actions Speak Louder than Words (ICML 2024).
Command: recjax train configs/ml_100k/hstu.py
Protocol: leave_one_out/full (a user's last item is the test, all unseen ones are ranked), the newest 50 of a history.
Expected: at least 0.9 times recjax's own SASRec. The time of the request is read, which SASRec does not see.
Measured: NDCG@10 0.1072 ±0.0029 over 3 seeds, 105 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.hstu import HSTUConfig

SEARCH: dict[str, tuple] = {
    "model.layers": (1, 2),
    "model.temperature": (0.0, 0.1),
    "model.dropout_rate": (0.1, 0.2, 0.3),
    "training.learning_rate": (2e-3, 4e-3, 6e-3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="hstu",
        dataset=under("leave_one_out/full", source="ml-100k", max_history=50, windows="drawn"),
        model=HSTUConfig(embedding_dim=64, layers=2, heads=2, dropout_rate=0.2, temperature=0.0),
        training=Training(epochs=30, batch_size=64, learning_rate=4e-3, warmup_steps=100, decay="cosine"),
        finetuning=Training(epochs=3, batch_size=64, learning_rate=3e-4, decay="cosine", seed=1),
    )
