"""Wide & Deep on MovieLens 100K: will this user give this movie at least 4 stars?

Paper: Cheng et al., Wide & Deep Learning for Recommender Systems (DLRS 2016).
Command: recjax train configs/ml_100k/wide_and_deep.py
Protocol: labelled_8_1_1 (random 8:1:1, label = rating >= 4, features of the user and of the movie).
Expected: AUC .7825, logloss .5798 (RecBole 1.2.1).
Measured: AUC 0.7904 ±0.0073 over 3 seeds, 10 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.wide_and_deep import WideAndDeepConfig

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
        name="wide_and_deep",
        dataset=under("labelled_8_1_1", source="ml-100k", max_history=50),
        model=WideAndDeepConfig(embedding_dim=16, embedding_dropout_rate=0.0),
        training=training,
        finetuning=training,
    )
