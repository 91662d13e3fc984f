"""Logistic regression on MovieLens latest-small: the row that DLRM-DCNv2 must beat, on the same features.

Paper: none.
Command: recjax train configs/logistic_regression_movielens_small.py --out runs/lr
Hardware and time: 2 cores of a server CPU, 10 seconds.
Protocol: all interactions, random 8:1:1, label = rating >= 4.
Expected: no reference on this set.
Measured: benchmarks/results/quick-seeds/seeds.md. Learning rate and weight decay were chosen on the validation part.
"""

from recjax.config import Dataset, Experiment, Training
from recjax.models.logistic_regression import LogisticRegressionConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=20, batch_size=1024, learning_rate=5e-3, weight_decay=1e-4, patience=3)
    return Experiment(
        name="logistic_regression",
        dataset=Dataset(split="random", ratios=(0.8, 0.1, 0.1), min_interactions=1),
        model=LogisticRegressionConfig(),
        training=training,
        finetuning=training,
    )
