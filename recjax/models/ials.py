"""iALS: matrix factorisation of implicit feedback by alternating least squares, every sweep in closed form.

Source: Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets (ICDM 2008); objective and
the regularisation scaled by frequency of Rendle et al., Revisiting the Performance of iALS on Item Recommendation
Benchmarks (RecSys 2022), equations 4 to 8. Departure: users' vectors are not stored. A user is folded in from the
history of the request, which is one more half step, so that unseen users are served like any other.

An update takes memory of a few times the interactions' own: 1 GB at 20 million of 138,000 users and 27,000 items.

Shapes: B batch, L history length, D embedding dim, V catalogue, U users, E interactions,
O rows that are solved for, K items returned.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.models.contract import Batch
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.least_squares import gram, solve_histories, solve_pieces
from recjax.nn.pieces import make_pieces
from recjax.nn.retrieval import top_unseen


@config
class IALSConfig(ModelConfig):
    """Sizes and weights of an iALS; one epoch is a sweep over users and one over items."""

    task: ClassVar[str] = "top_n"

    embedding_dim: int = 64  # D; a sweep costs about E D^2 + U D^3 operations
    unobserved: float = 0.1  # alpha_0, weight of every (user, item) pair as a 0 beside weight 1 of an interaction; > 0
    l2: float = 0.01  # lambda, of a vector that has n interactions times (n + unobserved * other side's size)^scaling
    l2_scaling: float = 1.0  # nu, [0, 1]: 0 regularises all vectors alike, 1 by their share of the loss
    table_deviation: float = 0.1  # of the normal, times D^-0.5, that initial item vectors are drawn from

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "IALSConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(self.unobserved > 0, "IALSConfig.unobserved", self.unobserved, "> 0")
        check(self.l2 > 0, "IALSConfig.l2", self.l2, "> 0")
        check(0 <= self.l2_scaling <= 1, "IALSConfig.l2_scaling", self.l2_scaling, "[0, 1]")
        check(self.table_deviation > 0, "IALSConfig.table_deviation", self.table_deviation, "> 0")

    def build(self, schema: TopNSchema) -> "IALS":
        """Returns the module for a set of users and items."""
        return IALS(config=self, schema=schema)

    def samples(self) -> Samples:
        """Returns that it is solved from all interactions at once, and reads histories."""
        return Samples(unit="everything", history=True)


class IALS(nn.Module):
    """The module; batches as recjax.data.top_n makes them."""

    config: IALSConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the item table."""
        c = self.config
        init = nn.initializers.normal(c.table_deviation * c.embedding_dim**-0.5)
        self.items = Embedding(self.schema.n_items, c.embedding_dim, table_init=init)

    def update(self, batch: Batch) -> tuple[dict[str, dict[str, Array]], Float[Array, ""]]:
        """Returns the item table after a sweep over users and one over items, and the objective an interaction."""
        user_E, item_E = batch["user"], batch["item"]
        n_users, n_items, unobserved = self.schema.n_users, self.schema.n_items, self.config.unobserved
        by_user, by_item = make_pieces(user_E, item_E, n_users), make_pieces(item_E, user_E, n_items)
        user_l2_U = self._l2(by_user.counts, n_items)
        users_UD, _ = solve_pieces(self.items.table, by_user, unobserved, user_l2_U)
        items_VD, objective = solve_pieces(users_UD, by_item, unobserved, self._l2(by_item.counts, n_users))
        objective += jnp.sum(user_l2_U[:, None] * users_UD**2)
        return {"items": {"table": items_VD}}, objective / len(user_E)

    def precompute(self, context: Mapping[str, Array]) -> dict[str, Array]:
        """Returns `gram` [D, D], the sum over all items of h h^T, which every user's equations share."""
        del context
        return {"gram": gram(self.items.table)}

    def users(self, batch: Batch) -> Float[Array, "B D"]:
        """Returns the vectors of users folded in from their histories."""
        history_BL = batch["history"]
        l2_B = self._l2(jnp.sum(history_BL >= 0, 1), self.schema.n_items)
        gram_DD = batch["precomputed"]["gram"]
        return solve_histories(self.items.table, gram_DD, history_BL, self.config.unobserved, l2_B)

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns each user's score of every item; about 1 for an item that the user has."""
        return self.users(batch) @ self.items.table.T

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)

    def _l2(self, counts_O: Int[Array, "O"], n_others: int) -> Float[Array, "O"]:
        c = self.config
        return c.l2 * (counts_O + c.unobserved * n_others) ** c.l2_scaling
