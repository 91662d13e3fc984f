"""LightGCN on FilmTrust, without the trust edges: what social LightGCN is compared with.

Paper: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation (SIGIR 2020).
Command: recjax train configs/filmtrust/lightgcn.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: no reference. Popularity is hard to beat here, where most users were shown the same films: its validation
NDCG@10 is .42, and 1.5 times that is out of reach.
Measured: NDCG@10 0.5006 ±0.0093 over 3 seeds, 8 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.lightgcn import LightGCNConfig

SEARCH: dict[str, tuple] = {
    "model.layers": (1, 2, 3),
    "model.l2": (3e-4, 1e-3, 3e-3),
    "training.learning_rate": (3e-3, 1e-2),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=80, batch_size=2048, learning_rate=1e-2, validation_every=4, patience=4)
    return Experiment(
        name="lightgcn_filmtrust",
        dataset=under("random_8_1_1/full", source="filmtrust"),
        model=LightGCNConfig(embedding_dim=64, layers=1, l2=1e-3),
        training=training,
        finetuning=training,
    )
