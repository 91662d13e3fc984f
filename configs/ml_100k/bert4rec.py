"""BERT4Rec on MovieLens 100K."""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.bert4rec import BERT4RecConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="bert4rec",
        dataset=under("leave_one_out/full", source="ml-100k", max_history=50),
        model=BERT4RecConfig(embedding_dim=64, heads=2, mlp_dims=(256, 256), dropout_rate=0.2),
        training=Training(epochs=150, batch_size=64, learning_rate=2e-3, warmup_steps=100, decay="cosine", validation_every=5),
        finetuning=Training(epochs=3, batch_size=64, learning_rate=3e-4, decay="cosine", seed=1),
    )
