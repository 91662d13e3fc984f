"""DeepFM on MovieLens 100K: will this user give this movie at least 4 stars?

Paper: Guo et al., DeepFM (IJCAI 2017).
Command: recjax train configs/ml_100k/deepfm.py
Protocol: labelled_8_1_1 (random 8:1:1, label = rating >= 4, features of the user and of the movie).
Expected: AUC .7887, logloss .5579 (RecBole 1.2.1).
Measured: AUC 0.7942 ±0.0077 over 3 seeds, 16 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.deepfm import DeepFMConfig

SEARCH: dict[str, tuple] = {
    "training.learning_rate": (1e-3, 3e-3),
    "training.weight_decay": (0.1, 0.3, 1.0),
    "model.embedding_dropout_rate": (0.0, 0.2, 0.4),
    "model.embedding_dim": (8, 16, 32),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=6, batch_size=512, learning_rate=3e-3, weight_decay=1.0, decay="cosine")
    return Experiment(
        name="deepfm",
        dataset=under("labelled_8_1_1", source="ml-100k", max_history=50),
        model=DeepFMConfig(embedding_dim=32, embedding_dropout_rate=0.2),
        training=training,
        finetuning=training,
    )
