"""Popularity on MovieLens 100K: the row that every other one must clear.

Paper: none.
Command: recjax train configs/ml_100k/popularity.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: test NDCG@10 .1005, RecBole 1.2.1 with its defaults (measured under this protocol), which
  counts an item once a batch, not once an interaction; exact counts give more, here and in Recommenders.jl.
Measured: NDCG@10 0.1376 ±0.0049 over 3 seeds, 1 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.popularity import PopularityConfig

# It has nothing to tune.
SEARCH: dict[str, tuple] = {}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=1)
    return Experiment(
        name="popularity",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=PopularityConfig(),
        training=training,
        finetuning=training,
    )
