"""CKE: matrix factorisation whose items also carry the vector that a knowledge graph's embedding gives them.

Both are learned together: BPR on the interactions, TransR on the graph's triples. Of the paper's three sources of
knowledge this is the structural one; the sets here have no texts or images to go with it.

Source: Zhang et al., Collaborative Knowledge Base Embedding for Recommender Systems (KDD 2016), sections 3.1 and 4;
Lin et al., Learning Entity and Relation Embeddings for Knowledge Graph Completion (AAAI 2015), for TransR. Departures:
an item bias, Adam in the place of SGD, and L2 on the rows in use in the place of TransR's bounds on their norms.

Shapes: B batch, K negatives (items returned in `serve`), D embedding dim, P dim of a relation's space, T triples drawn,
N tails of each, R relations, V catalogue.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.config import ModelConfig, Samples, check, config
from recjax.data.top_n import TopNSchema
from recjax.losses import bpr_loss, masked_mean
from recjax.models.contract import Batch
from recjax.models.sharding import TABLES, WHOLE, Rules
from recjax.nn.dots import FLOAT, Dots
from recjax.nn.embedding import Embedding
from recjax.nn.retrieval import top_unseen


@config
class CKEConfig(ModelConfig):
    """Sizes of a CKE."""

    task: ClassVar[str] = "top_n"
    samples_apart: ClassVar[bool] = False  # triples are drawn for the batch

    embedding_dim: int = 64  # D; of users, items and entities
    relation_dim: int = 32  # P; of the space that a relation projects entities to
    negatives: int = 1  # drawn uniformly for each interaction
    triples: int = 1024  # T; drawn for each batch, each with one tail that is not its own
    knowledge_weight: float = 1.0  # of the triples' loss; 0 leaves the graph out of the loss
    l2: float = 1e-5  # of the rows that a batch looks up, times their squared norm; >= 0
    table_deviation: float = 0.01  # of the normal that initial embeddings are drawn from

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "relation_dim", "negatives", "triples"):
            check(getattr(self, name) >= 1, f"CKEConfig.{name}", getattr(self, name), ">= 1")
        for name in ("knowledge_weight", "l2"):
            check(getattr(self, name) >= 0, f"CKEConfig.{name}", getattr(self, name), ">= 0")
        check(self.table_deviation > 0, "CKEConfig.table_deviation", self.table_deviation, "> 0")

    def build(self, schema: TopNSchema) -> "CKE":
        """Returns the module for a set of users and items and a knowledge graph."""
        return CKE(config=self, schema=schema)

    def sharding_rules(self) -> Rules:
        """Returns rules that split nothing: its projections are small."""
        return ((r"^projections$", WHOLE), *TABLES)

    def samples(self) -> Samples:
        """Returns interactions with their negatives, and the knowledge graph."""
        return Samples(negatives=self.negatives, context=("knowledge",))


class CKE(nn.Module):
    """The module; batches as recjax.data.top_n makes them."""

    config: CKEConfig
    schema: TopNSchema
    dots: Dots = FLOAT

    def setup(self) -> None:
        """Creates the tables, and a translation and a projection for each relation."""
        c, s, init = self.config, self.schema, nn.initializers.normal(self.config.table_deviation)
        self.users = Embedding(s.n_users, c.embedding_dim, table_init=init)
        self.items = Embedding(s.n_items, c.embedding_dim, table_init=init)
        self.item_biases = Embedding(s.n_items, 1, table_init=nn.initializers.zeros)
        self.entities = Embedding(s.n_entities, c.embedding_dim, table_init=init)
        self.relations = Embedding(s.n_relations, c.relation_dim, table_init=init)
        shape = (s.n_relations, c.embedding_dim, c.relation_dim)
        self.projections = self.param("projections", nn.initializers.lecun_normal(batch_axis=0), shape)

    def item_vectors(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the sum of the item's own vector and that of the entity it is."""
        return self.items.rows(ids) + self.entities.rows(ids)

    def distances(self, head_T: Array, relation_T: Array, tail_TN: Array) -> Float[Array, "T N"]:
        """Returns |h M_r + r - t M_r|^2, how far each head and relation are from each of N tails."""
        difference_TND = self.entities.rows(head_T)[:, None] - self.entities.rows(tail_TN)
        # T projections are gathered, so that a relation's is used for all its tails: it is D times the work of a row.
        projected_TNP = jnp.einsum("tnd,tdp->tnp", difference_TND, self.projections[relation_T])
        return jnp.sum((projected_TNP + self.relations.rows(relation_T)[:, None]) ** 2, 2)

    def knowledge_loss(self, graph: Mapping[str, Array], key: Array) -> Float[Array, ""]:
        """Returns the mean of -log sigmoid(distance of a corrupted triple - distance of a true one), plus L2.

        Triples are drawn with replacement; the tail of a corrupted one is any entity, so that a few are true.
        """
        triple_key, tail_key = jax.random.split(key)
        n = self.config.triples
        drawn_T = jax.random.randint(triple_key, (n,), 0, graph["head"].shape[0])
        corrupted_T = jax.random.randint(tail_key, (n,), 0, self.schema.n_entities)
        head_T, relation_T, tail_T = (graph[name][drawn_T] for name in ("head", "relation", "tail"))
        true_T, corrupted_distance_T = self.distances(head_T, relation_T, jnp.stack([tail_T, corrupted_T], 1)).T
        rows = (self.entities.rows(x) for x in (head_T, tail_T, corrupted_T))
        penalty_T = sum(jnp.sum(row_TD**2, 1) for row_TD in (*rows, self.relations.rows(relation_T)))
        return jnp.mean(-jax.nn.log_sigmoid(corrupted_distance_T - true_T) + self.config.l2 * penalty_T)

    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the BPR loss with its L2 penalty plus the weighted loss of the graph's triples.

        Outside training the same triples are drawn every time.
        """
        c = self.config
        items_BK = jnp.concatenate([batch["item"][:, None], batch["negatives"]], 1)
        user_BD, item_BKD = self.users.rows(batch["user"]), self.item_vectors(items_BK)
        score_BK = jnp.einsum("bd,bkd->bk", user_BD, item_BKD) + self.item_biases.rows(items_BK)[..., 0]
        rows_BKD = (self.items.rows(items_BK), self.entities.rows(items_BK))
        penalty_B = jnp.sum(user_BD**2, 1) + sum(jnp.sum(x_BKD**2, (1, 2)) for x_BKD in rows_BKD)
        interactions = masked_mean(bpr_loss(score_BK) + c.l2 * penalty_B, batch["weight"] > 0)
        key = self.make_rng("dropout") if train else jax.random.key(0)
        return interactions + c.knowledge_weight * self.knowledge_loss(batch["context"], key)

    def __call__(self, batch: Batch) -> Float[Array, "B V"]:
        """Returns each user's score of every item."""
        item_VD = self.item_vectors(jnp.arange(self.schema.n_items))
        return self.users.rows(batch["user"]) @ item_VD.T + self.item_biases.table[None, :, 0]

    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `items` [B, K] int32 and `scores` [B, K] float32, best first, without the user's own items."""
        return top_unseen(self(batch), batch["history"], top_k)
