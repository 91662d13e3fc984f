"""The one table that every data source becomes: who, what, how much, when, in columns."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int32, Int64, Integer
from numpy.typing import NDArray

from recjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnowledgeGraph:
    """Facts about items as T triples (head entity, relation, tail entity).

    Entity v < n_items is item v of the interactions; the others (people, genres, countries) follow.

    Attributes:
      head: [T] int32 codes in [0, n_entities).
      relation: [T] int32 codes in [0, n_relations).
      tail: [T] int32 codes in [0, n_entities).
    """

    head: Int32[np.ndarray, "T"]
    relation: Int32[np.ndarray, "T"]
    tail: Int32[np.ndarray, "T"]
    n_entities: int
    n_relations: int

    def keep_items(self, n_items: int, kept: NDArray) -> "KnowledgeGraph":
        """Returns the graph after the items, which were `n_items`, are reduced to the codes in `kept`, ascending.

        Triples that touch a dropped item go; codes are renumbered as the items are, other entities after them.
        """
        n_others = self.n_entities - n_items
        code_of = np.full(self.n_entities, -1, np.int32)
        code_of[kept] = np.arange(len(kept))
        code_of[n_items:] = len(kept) + np.arange(n_others)
        head, tail = code_of[self.head], code_of[self.tail]
        still = (head >= 0) & (tail >= 0)
        return KnowledgeGraph(
            head=head[still],
            relation=self.relation[still],
            tail=tail[still],
            n_entities=len(kept) + n_others,
            n_relations=self.n_relations,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interactions:
    """Columns of E interactions; ids are dense codes from 0 that index `user_ids` and `item_ids`.

    Attributes:
      name: of the data set, as it stands in result rows.
      user: [E] int32 codes in [0, n_users).
      item: [E] int32 codes in [0, n_items).
      rating: [E] float32; 1.0 where the source has none.
      timestamp: [E] int64 Unix seconds, or None where the source has none.
      user_ids: [n_users] the source's own ids (integers or strings).
      item_ids: [n_items] likewise.
      item_features: columns of n_items rows, such as `year` (float32, NaN unknown) or `genres` (lists).
      user_features: columns of n_users rows, such as `age` (float32, NaN unknown) or `gender` (strings).
      trust: [2, S] int32 user codes, who trusts (row 0) whom (row 1); None where the source has no such edges.
      knowledge: facts about the items; None where the source has none.
    """

    name: str
    user: Int32[np.ndarray, "E"]
    item: Int32[np.ndarray, "E"]
    rating: Float32[np.ndarray, "E"]
    timestamp: Int64[np.ndarray, "E"] | None
    user_ids: NDArray
    item_ids: NDArray
    item_features: Mapping[str, NDArray] = dataclasses.field(default_factory=dict)
    user_features: Mapping[str, NDArray] = dataclasses.field(default_factory=dict)
    trust: Int32[np.ndarray, "2 S"] | None = None
    knowledge: KnowledgeGraph | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Returns how many users the codes can name; some may have no interaction left."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Returns how many items the codes can name; some may have no interaction left."""
        return len(self.item_ids)

    def select(self, rows: NDArray) -> "Interactions":
        """Returns the interactions at `rows` (indices or a mask); codes and id tables stay as they are."""
        return dataclasses.replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            rating=self.rating[rows],
            timestamp=None if self.timestamp is None else self.timestamp[rows],
        )

    def in_order(self) -> "Interactions":
        """Returns the interactions sorted by user, then timestamp, then item.

        Without timestamps, they are sorted by user and keep their order within each.
        """
        if self.timestamp is None:
            return self.select(np.argsort(self.user, kind="stable"))
        return self.select(_order_in_time(self.user, self.timestamp, self.item))

    def k_core(self, k: int) -> "Interactions":
        """Returns the largest subset in which every user and every item has at least `k` interactions.

        Codes are renumbered densely, in the old order.

        Raises:
          UserError: nothing is left.
        """
        user, item = self.user, self.item
        keep = np.ones(len(self), bool)
        while True:
            users = np.bincount(user[keep], minlength=self.n_users)
            items = np.bincount(item[keep], minlength=self.n_items)
            still = keep & (users[user] >= k) & (items[item] >= k)
            if still.sum() == keep.sum():
                break
            keep = still
        if not keep.any():
            raise UserError(f"the {k}-core of {self.name} is empty; lower Dataset.min_interactions")
        used_users, user_codes = np.unique(user[keep], return_inverse=True)
        used_items, item_codes = np.unique(item[keep], return_inverse=True)
        return dataclasses.replace(
            self.select(keep),
            user=user_codes.astype(np.int32),
            item=item_codes.astype(np.int32),
            user_ids=self.user_ids[used_users],
            item_ids=self.item_ids[used_items],
            item_features={name: column[used_items] for name, column in self.item_features.items()},
            user_features={name: column[used_users] for name, column in self.user_features.items()},
            trust=None if self.trust is None else _keep_users(self.trust, self.n_users, used_users),
            knowledge=self.knowledge and self.knowledge.keep_items(self.n_items, used_items),
        )


def _order_in_time(user: NDArray, timestamp: NDArray, item: NDArray) -> Integer[np.ndarray, "E"]:
    """Returns what `np.lexsort((item, timestamp, user))` does, in a third of the time."""
    first, last = (int(timestamp.min()), int(timestamp.max())) if len(timestamp) else (0, 0)
    if (int(user.max(initial=0)) + 1) * (last - first + 1) > np.iinfo(np.int64).max:
        return np.lexsort((item, timestamp, user))
    key = user.astype(np.int64) * (last - first + 1) + (timestamp - first)
    order = np.argsort(key, kind="stable")
    same = np.diff(key[order]) == 0
    ties = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = order[ties]
    order[ties] = rows[np.lexsort((item[rows], key[rows]))]
    return order


def _keep_users(edges: Int32[np.ndarray, "2 S"], n_users: int, kept: NDArray) -> Int32[np.ndarray, "2 S2"]:
    """Returns the edges whose two users are in `kept`, renumbered as the users are."""
    code_of = np.full(n_users, -1, np.int32)
    code_of[kept] = np.arange(len(kept))
    renumbered = code_of[edges]
    return renumbered[:, (renumbered >= 0).all(0)]


def encode_ids(ids: NDArray) -> tuple[Int32[np.ndarray, "E"], Integer[np.ndarray, "V"] | NDArray]:
    """Returns dense codes for `ids`, and the sorted table of distinct ids that they index."""
    table, codes = np.unique(ids, return_inverse=True)
    return codes.astype(np.int32), table
