"""A two-branch LSTM that predicts ratings: one reads what the user rated before, one who rated the item before.

Source: the two networks follow Wu et al., Recurrent Recommender Networks (WSDM 2017), where a user's and an item's
state, each of an LSTM over the ratings so far, are joined with stationary vectors of both. Departures: both
sequences stand in the sample and are encoded anew for every rating, in the place of states kept by month; dense
layers in the place of a product; biases; and a sigmoid that keeps to the rating scale.

Shapes: B batch, L sequence length, D embedding dim, E width of a step, H units.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.batches import PADDING_ID
from recjax.data.rating import RatingSchema
from recjax.losses import masked_mean
from recjax.models.contract import Batch, HiddenUnits, mlp_hidden_units
from recjax.models.sharding import TABLES, WHOLE, Rules, dense_rules, mlp_rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.mlp import MLP
from recjax.nn.recurrent import Recurrent, last_state


@config
class LSTMTwoBranchConfig(ModelConfig):
    """Sizes of a two-branch LSTM."""

    task: ClassVar[str] = "rating"

    embedding_dim: int = 32  # D; of users and items
    units: int = 32  # H; of each branch
    mlp_dims: tuple[int, ...] = (64,)  # hidden widths of the dense layers over both branches and both embeddings
    dropout_rate: float = 0.2  # [0, 1); of embeddings, states and hidden layers
    l2: float = 0.0  # of the rows of the user and the item that a batch looks up, times their squared norm; >= 0

    def __post_init__(self) -> None:
        check(self.embedding_dim >= 1, "LSTMTwoBranchConfig.embedding_dim", self.embedding_dim, ">= 1")
        check(self.units >= 1, "LSTMTwoBranchConfig.units", self.units, ">= 1")
        check(min(self.mlp_dims, default=0) >= 1, "LSTMTwoBranchConfig.mlp_dims", self.mlp_dims, "widths >= 1")
        check(0 <= self.dropout_rate < 1, "LSTMTwoBranchConfig.dropout_rate", self.dropout_rate, "[0, 1)")
        check(self.l2 >= 0, "LSTMTwoBranchConfig.l2", self.l2, ">= 0")

    def build(self, schema: RatingSchema) -> "LSTMTwoBranch":
        """Returns the module for a set of users and items and a rating scale."""
        return LSTMTwoBranch(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns the rules that split the MLP."""
        return (
            *mlp_rules("mlp"),
            *dense_rules(r"\w+_branch/input"),
            (r"state_(kernel|bias)$", WHOLE),
            *TABLES,
        )

    def samples(self) -> Samples:
        """Returns ratings with the user's and the item's earlier ones."""
        return Samples(history=True)

    def hidden_units(self) -> tuple[HiddenUnits, ...]:
        """Returns the dense layers over the branches."""
        return mlp_hidden_units(self.mlp_dims, "mlp_dims", "mlp", f"mlp/dense_{len(self.mlp_dims)}")


class LSTMTwoBranch(nn.Module):
    """The module; batches as recjax.data.rating makes them, with both sequences."""

    config: LSTMTwoBranchConfig
    schema: RatingSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the tables, the branches and the dense layers."""
        c, init = self.config, nn.initializers.normal(0.05)
        dense: dict[str, Any] = {"dots": self.dots}
        self.users = Embedding(self.schema.n_users, c.embedding_dim, table_init=init)
        self.items = Embedding(self.schema.n_items, c.embedding_dim, table_init=init)
        self.user_biases = Embedding(self.schema.n_users, 1, table_init=nn.initializers.zeros)
        self.item_biases = Embedding(self.schema.n_items, 1, table_init=nn.initializers.zeros)
        self.user_branch = Recurrent(units=c.units, cell="lstm", **dense)
        self.item_branch = Recurrent(units=c.units, cell="lstm", **dense)
        self.mlp = MLP(widths=(*c.mlp_dims, 1), dropout_rate=c.dropout_rate, linear_end=True, **dense)
        self.dropout = nn.Dropout(c.dropout_rate)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean squared error plus the L2 penalty; `rating` and `weight` are [B] float32."""
        error_B = self(batch, train=train) - batch["rating"]
        tables = ((self.users, "user"), (self.items, "item"), (self.user_biases, "user"), (self.item_biases, "item"))
        penalty_B = sum(jnp.sum(table.rows(batch[side]) ** 2, 1) for table, side in tables)
        return masked_mean(error_B**2 + self.config.l2 * penalty_B, batch["weight"] > 0)

    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B"]:
        """Returns each rating, strictly inside the scale."""
        user_BD, item_BD = self.users.rows(batch["user"]), self.items.rows(batch["item"])
        user_state_BH = self._branch(
            self.user_branch, self.items, self.item_biases, batch["user_items"], batch["user_ratings"], train
        )
        item_state_BH = self._branch(
            self.item_branch, self.users, self.user_biases, batch["item_users"], batch["item_ratings"], train
        )
        embedded = self.dropout(jnp.concatenate([user_BD, item_BD], 1), deterministic=not train)
        states = self.dropout(jnp.concatenate([user_state_BH, item_state_BH], 1), deterministic=not train)
        joint_B = self.mlp(jnp.concatenate([embedded, states], 1), train=train)[:, 0]
        logit_B = joint_B + self.user_biases.rows(batch["user"])[:, 0] + self.item_biases.rows(batch["item"])[:, 0]
        lowest, span = self.schema.min_rating, self.schema.max_rating - self.schema.min_rating
        # Where an untrained model starts; a training part all at one end of the scale would start at infinity.
        mean = min(max((self.schema.mean_rating - lowest) / span, 1e-3), 1 - 1e-3)
        return lowest + span * jax.nn.sigmoid(logit_B + jnp.log(mean / (1 - mean)))

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `rating` [B] float32; `top_k` has no meaning for one candidate a sample."""
        del top_k
        return {"rating": self(batch)}

    def _branch(
        self,
        branch: Recurrent,
        others: Embedding,
        biases: Embedding,
        ids_BL: Int[Array, "B L"],
        ratings_BL: Float[Array, "B L"],
        train: bool,
    ) -> Float[Array, "B H"]:
        """Returns the state after a sequence of ratings, of which each step reads who or what, its bias and the rating.

        Beside the bias the rating tells how it differs from what that item, or that user, usually gets or gives.
        """
        used_BL = ids_BL != PADDING_ID
        ids_BL = jnp.where(used_BL, ids_BL, 0)
        half_span = (self.schema.max_rating - self.schema.min_rating) / 2
        rating_BL1 = ((ratings_BL - self.schema.mean_rating) / half_span)[..., None]
        embedded_BLD = self.dropout(others.rows(ids_BL), deterministic=not train)
        steps_BLE = jnp.concatenate([embedded_BLD, biases.rows(ids_BL), rating_BL1], 2)
        return last_state(branch(steps_BLE), used_BL.sum(1))
