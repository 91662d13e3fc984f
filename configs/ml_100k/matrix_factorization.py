"""Biased matrix factorisation on MovieLens 100K: which rating will this user give?

Paper: Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems (Computer 2009).
Command: recjax train configs/ml_100k/matrix_factorization.py
Protocol: rating_90_10 (a tenth of the ratings is the test), predictions clipped to the scale.
Expected: no reference under this protocol; must beat the sanity row "biases". Cornac's README has RMSE .8998 and MAE
  .7430 for its MF under a random 80/20 split, but as means over users of each user's error, which are lower than
  errors over all ratings.
Measured: RMSE 0.9074 ±0.0050 over 3 seeds, 9 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.matrix_factorization import MatrixFactorizationConfig

SEARCH: dict[str, tuple] = {
    "model.embedding_dim": (32, 64, 128),
    "model.l2": (0.06, 0.08, 0.1, 0.12, 0.15),
    "model.bias_l2": (0.0, 0.01, 0.03),
    "training.learning_rate": (5e-4, 1e-3, 2e-3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=80, batch_size=256, learning_rate=5e-4, patience=3)
    return Experiment(
        name="matrix_factorization",
        dataset=under("rating_90_10", source="ml-100k"),
        model=MatrixFactorizationConfig(embedding_dim=128, l2=0.12, bias_l2=0.0),
        training=training,
        finetuning=training,
    )
