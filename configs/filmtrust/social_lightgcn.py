"""Social LightGCN on FilmTrust: users also take from the users that they trust.

Paper: Liao et al., SocialLGN: Light Graph Convolution Network for Social Recommendation (Information Sciences 2022).
Command: recjax train configs/filmtrust/social_lightgcn.py
Protocol: random_8_1_1/full (all ratings as interactions, a tenth of a user's is the test, unseen items are ranked).
Expected: no reference; compare configs/filmtrust/lightgcn.py, the same model without trust. On the
validation part trust does not pay: mean NDCG@10 over three split seeds .4261 without, .4246 and .4245 with shares of
.1 and .5. Two users in three trust nobody who rates.
Measured: NDCG@10 0.5004 ±0.0090 over 3 seeds, 7 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

from recjax.config import Experiment, Training
from recjax.data.protocols import under
from recjax.models.social_lightgcn import SocialLightGCNConfig

SEARCH: dict[str, tuple] = {
    "model.trust_share": (0.05, 0.1, 0.3, 0.5),
    "model.layers": (1, 2, 3),
    "model.l2": (3e-4, 1e-3, 3e-3),
    "training.learning_rate": (3e-3, 1e-2),
}


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(epochs=80, batch_size=2048, learning_rate=1e-2, validation_every=4, patience=4)
    return Experiment(
        name="social_lightgcn_filmtrust",
        dataset=under("random_8_1_1/full", source="filmtrust"),
        model=SocialLightGCNConfig(embedding_dim=64, layers=2, l2=1e-3, trust_share=0.1),
        training=training,
        finetuning=training,
    )
