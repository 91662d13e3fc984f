"""HSTU on MovieLens 100K."""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.hstu import HSTUConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="hstu",
        dataset=under("leave_one_out/full", source="ml-100k", max_history=50),
        model=HSTUConfig(embedding_dim=64, dropout_rate=0.2),
        training=Training(epochs=40, batch_size=64, learning_rate=2e-3, warmup_steps=100, decay="cosine", validation_every=2),
        finetuning=Training(epochs=3, batch_size=64, learning_rate=3e-4, decay="cosine", seed=1),
    )
