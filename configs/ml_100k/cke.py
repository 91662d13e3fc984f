"""CKE on MovieLens 100K: matrix factorisation whose items also carry their entity's vector of a knowledge graph.

Paper: Zhang et al., Collaborative Knowledge Base Embedding for Recommender Systems (KDD 2016).
Command: recjax train configs/ml_100k/cke.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: no reference; must beat popularity 1.5 times in NDCG@10.
Measured: NDCG@10 0.3086 ±0.0074 over 3 seeds, 39 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.cke import CKEConfig

SEARCH: dict[str, tuple] = {
    "model.negatives": (1, 4),
    "model.knowledge_weight": (0.03, 0.1, 0.3, 1.0),
    "model.l2": (1e-3, 3e-3, 6e-3),
    "training.learning_rate": (1e-3, 3e-3),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=60, batch_size=2048, learning_rate=1e-3, validation_every=2, patience=4)
    return Experiment(
        name="cke",
        dataset=under("random_8_1_1/full", source="ml-100k"),
        model=CKEConfig(embedding_dim=64, negatives=4, knowledge_weight=0.03, l2=6e-3),
        training=training,
        finetuning=training,
    )
