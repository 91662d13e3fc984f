"""Social LightGCN: LightGCN whose users also take from the users that they trust, at every step of propagation.

Source: Liao et al., SocialLGN: Light Graph Convolution Network for Social Recommendation (Information Sciences 2022),
section 3.2, and Wu et al., A Neural Influence Diffusion Model for Social Recommendation (SIGIR 2019), for taking
along the direction of trust. Departure: a fixed share of a user's new vector comes from the trusted users, where
SocialLGN learns two matrices and a nonlinearity to fuse both; a user who trusts nobody takes from items alone.

Shapes: U users, V catalogue, D embedding dim, E training edges, S trust edges.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array

from recjax.config import Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.models.lightgcn import LightGCN, LightGCNConfig
from recjax.nn.propagation import propagation, symmetric_weights


@config
class SocialLightGCNConfig(LightGCNConfig):
    """Sizes of a social LightGCN."""

    trust_share: float = 0.5  # of a trusting user's new vector that is from trusted users, [0, 1]; 0 is LightGCN

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.trust_share <= 1, "SocialLightGCNConfig.trust_share", self.trust_share, "[0, 1]")

    def build(self, schema: TopNSchema) -> "SocialLightGCN":
        """Returns the module for a set of users and items."""
        return SocialLightGCN(config=self, schema=schema)

    def samples(self) -> Samples:
        """Returns interactions with their negatives, the graph of all of them, and who trusts whom."""
        return Samples(negatives=self.negatives, context=("interactions", "trust"))


class SocialLightGCN(LightGCN):
    """The module; batches as recjax.data.top_n makes them."""

    config: SocialLightGCNConfig

    def precompute(self, context: Mapping[str, Array]) -> dict[str, Array]:
        """Returns `users` [U, D] and `items` [V, D]: the mean over 0 to `layers` steps of propagation."""
        n_users = self.schema.n_users
        truster_S, trustee_S = context["truster"], context["trustee"]
        weight_S = symmetric_weights(truster_S, trustee_S, n_users, n_users)
        trust = propagation(truster_S, trustee_S, weight_S, n_users, n_users)
        trusts_U1 = jnp.zeros((n_users, 1)).at[truster_S].set(1.0)
        return self.propagate(context, (trust, self.config.trust_share * trusts_U1))
