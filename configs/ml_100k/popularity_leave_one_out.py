"""Popularity on MovieLens 100K, where the last item of each user is to be found: the row that SASRec must clear.

Paper: none.
Command: recjax train configs/ml_100k/popularity_leave_one_out.py
Protocol: leave_one_out/full (a user's last item is the test, all unseen ones are ranked).
Expected: a cross-check: test HR@10 .0710, NDCG@10 .0361, popularity in the plain JAX program of sasrec.py.
  It reads no order, so that it is a model of the top-n task; the sanity row of sasrec.py is the same figure.
Measured: NDCG@10 0.0432 ±0.0000 over 3 seeds, 1 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

import dataclasses
from pathlib import Path

from recjax.config import Experiment
from recjax.config_files import load_config
from recjax.data.protocols import under

# It has nothing to tune.
SEARCH: dict[str, tuple] = {}


def get_config() -> Experiment:
    """Returns the experiment of popularity.py under another protocol."""
    base = load_config(Path(__file__).with_name("popularity.py"))
    return dataclasses.replace(
        base, name="popularity_leave_one_out", dataset=under("leave_one_out/full", source="ml-100k")
    )
