"""ItemKNN on MovieLens 100K: items like those that the user has.

Paper: Deshpande and Karypis, Item-Based Top-N Recommendation Algorithms (TOIS 2004).
Command: recjax train configs/ml_100k/item_knn.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: test NDCG@10 .2833, RecBole 1.2.1 with its defaults (measured under this protocol).
Measured: NDCG@10 0.2856 ±0.0094 over 3 seeds, 2 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.item_knn import ItemKNNConfig

SEARCH: dict[str, tuple] = {"model.neighbours": (50, 100, 150, 200, 300), "model.shrink": (0.0, 5.0, 10.0, 20.0, 50.0)}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=1)
    return Experiment(
        name="item_knn",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=ItemKNNConfig(neighbours=100, shrink=50.0),
        training=training,
        finetuning=training,
    )
