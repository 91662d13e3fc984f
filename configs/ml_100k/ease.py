"""EASE on MovieLens 100K: a linear model from items to items, in closed form.

Paper: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (WWW 2019).
Command: recjax train configs/ml_100k/ease.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: test NDCG@10 .3295, RecBole 1.2.1 with its defaults (measured under this protocol).
Measured: NDCG@10 0.3298 ±0.0097 over 3 seeds, 2 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.ease import EASEConfig

SEARCH: dict[str, tuple] = {"model.l2": (100.0, 150.0, 200.0, 250.0, 300.0, 400.0, 500.0, 700.0, 1000.0)}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=1)
    return Experiment(
        name="ease",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=EASEConfig(l2=500.0),
        training=training,
        finetuning=training,
    )
