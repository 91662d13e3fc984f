"""GRU4Rec on MovieLens 100K: next film out of 1,682, from the newest 50.

Paper: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks (ICLR 2016).
Command: recjax train configs/ml_100k/gru4rec.py
Protocol: leave_one_out/full (a user's last item is the test, all unseen ones are ranked), the newest 50 of a history.
Expected: at least 0.9 times recjax's own SASRec (RecBole's own row, test NDCG@10 .0513, is with weak defaults).
Measured: NDCG@10 0.1102 ±0.0016 over 3 seeds, 160 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.gru4rec import GRU4RecConfig

SEARCH: dict[str, tuple] = {
    "model.units": ((64,), (128,), (256,)),
    "model.dropout_rate": (0.2, 0.3, 0.4, 0.5),
    "model.tied": (True, False),
    "training.learning_rate": (1e-3, 2e-3, 4e-3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="gru4rec",
        dataset=under("leave_one_out/full", source="ml-100k", max_history=50, windows="drawn"),
        model=GRU4RecConfig(embedding_dim=64, units=(128,), tied=False, dropout_rate=0.5),
        training=Training(epochs=40, batch_size=64, learning_rate=4e-3, warmup_steps=100, decay="cosine"),
        finetuning=Training(epochs=3, batch_size=64, learning_rate=3e-4, decay="cosine", seed=1),
    )
