"""Two-branch LSTM on MovieLens 100K."""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.lstm_two_branch import LSTMTwoBranchConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="lstm_two_branch",
        dataset=under("rating_90_10", source="ml-100k", max_history=20),
        model=LSTMTwoBranchConfig(),
        training=Training(epochs=8, batch_size=512, learning_rate=3e-3, decay="cosine"),
        finetuning=Training(epochs=2, batch_size=512, learning_rate=3e-4, decay="cosine", seed=1),
    )
