"""Two towers on MovieLens 100K: user and history against item, trained with the other items of the batch as negatives.

Paper: Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations (RecSys 2019).
Command: recjax train configs/ml_100k/two_tower.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: no reference; must beat popularity 1.5 times in NDCG@10.
Measured: NDCG@10 0.3079 ±0.0013 over 3 seeds, 72 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.two_tower import TwoTowerConfig

SEARCH: dict[str, tuple] = {
    "model.temperature": (0.1, 0.15, 0.2, 0.3),
    "model.correction": (0.0, 0.5, 1.0),
    "model.dropout_rate": (0.0, 0.2, 0.4),
    "training.learning_rate": (1e-3, 3e-3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=50, batch_size=1024, learning_rate=3e-3, validation_every=2, patience=4)
    return Experiment(
        name="two_tower",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=TwoTowerConfig(embedding_dim=64, user_mlp=(128,), item_mlp=(128,), temperature=0.2, dropout_rate=0.2),
        training=training,
        finetuning=training,
    )
