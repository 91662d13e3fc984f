"""U-AutoRec on MovieLens 100K: the rating that a user would give, from all other ratings of the user.

Paper: Sedhain et al., AutoRec: Autoencoders Meet Collaborative Filtering (WWW 2015).
Command: recjax train configs/ml_100k/autorec_users.py
Protocol: rating_90_10 (a tenth of the ratings is the test).
Expected: no figure for this set; must beat the RMSE of biases. On ML-1M, 90/10: RMSE .874 (paper).
Measured: RMSE 0.9239 ±0.0060 over 3 seeds, 9 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.autorec import AutoRecConfig

SEARCH: dict[str, tuple] = {
    "model.l2": (3e-5, 1e-4, 3e-4),
    "model.dropout_rate": (0.0, 0.5, 0.7),
    "model.hidden_dims": ((100,), (500,)),
    "training.learning_rate": (1e-4, 3e-4, 1e-3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=100, batch_size=32, learning_rate=3e-4, validation_every=3, patience=4)
    return Experiment(
        name="autorec_users",
        dataset=under("rating_90_10", source="ml-100k"),
        model=AutoRecConfig(by="users", hidden_dims=(100,), l2=3e-5, dropout_rate=0.0),
        training=training,
        finetuning=training,
    )
