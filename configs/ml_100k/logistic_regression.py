"""Logistic regression on MovieLens 100K: will this user give this movie at least 4 stars?

Paper: none.
Command: recjax train configs/ml_100k/logistic_regression.py
Protocol: labelled_8_1_1 (random 8:1:1, label = rating >= 4, features of the user and of the movie).
Expected: AUC .7769, logloss .5621 (RecBole 1.2.1).
Measured: AUC 0.7794 ±0.0074 over 3 seeds, 4 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.logistic_regression import LogisticRegressionConfig

SEARCH: dict[str, tuple] = {
    "training.learning_rate": (3e-3, 5e-3, 1e-2),
    "training.weight_decay": (1e-3, 1e-2, 0.1),
    "training.epochs": (10, 15, 25),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=25, batch_size=1024, learning_rate=1e-2, weight_decay=1e-2, decay="cosine")
    return Experiment(
        name="logistic_regression",
        dataset=under("labelled_8_1_1", source="ml-100k", max_history=50),
        model=LogisticRegressionConfig(),
        training=training,
        finetuning=training,
    )
