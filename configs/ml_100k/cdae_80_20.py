"""CDAE on MovieLens 100K under the split of CFGAN's paper: movies to recommend.

Paper: Wu et al., Collaborative Denoising Auto-Encoders for Top-N Recommender Systems (WSDM 2016).
Command: recjax train configs/ml_100k/cdae_80_20.py
Protocol: random_80_20, of whose training part a tenth chooses the epoch: the model learns from 72% of the ratings.
Expected: a cross-check: P@5 .433, P@20 .287 (CDAE in CFGAN's paper, which learns from 80%).
Measured: docs/quality.md.
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.cdae import CDAEConfig

SEARCH: dict[str, tuple] = {
    "model.negatives": (0, 5),
    "model.l2": (1e-3, 1e-2, 3e-2),
    "model.dropout_rate": (0.5, 0.7),
    "training.learning_rate": (1e-3, 2e-3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=200, batch_size=128, learning_rate=2e-3, validation_every=5, patience=4)
    return Experiment(
        name="cdae_80_20",
        dataset=under("random_80_20", source="ml-100k"),
        model=CDAEConfig(hidden_dims=(200,), dropout_rate=0.7, negatives=0, l2=1e-2),
        training=training,
        finetuning=training,
    )
