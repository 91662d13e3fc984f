"""MultVAE on MovieLens 100K: movies to recommend, from the set of those watched.

Paper: Liang et al., Variational Autoencoders for Collaborative Filtering (WWW 2018).
Command: recjax train configs/ml_100k/mult_vae.py
Protocol: random_8_1_1/full (all ratings as implicit feedback, a tenth of a user's items is the test, all ranked).
Expected: NDCG@10 .3001, Recall@10 .2598 (RecBole 1.2.1, with hidden layers of 600).
Measured: NDCG@10 0.3253 ±0.0088 over 3 seeds, 20 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.mult_vae import MultVAEConfig

SEARCH: dict[str, tuple] = {
    "model.kl_cap": (0.1, 0.2, 0.5),
    "model.dropout_rate": (0.5, 0.7),
    "training.learning_rate": (1e-3, 2e-3),
    "training.weight_decay": (0.0, 0.1, 0.3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(
        epochs=150, batch_size=128, learning_rate=2e-3, weight_decay=0.3, validation_every=5, patience=4
    )
    return Experiment(
        name="mult_vae",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=MultVAEConfig(encoder_dims=(), latent_dim=200, decoder_dims=(), dropout_rate=0.5, kl_cap=0.1),
        training=training,
        finetuning=training,
    )
