"""Biased matrix factorisation on MovieLens 100K under a random 80/20 split of all ratings.

Paper: Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems (Computer 2009).
Command: recjax train configs/ml_100k/matrix_factorization_80_20.py
Protocol: random_80_20, of whose training part a tenth chooses the epoch: the model learns from 72% of the ratings.
Expected: a cross-check: RMSE .8998, MAE .7430 (Cornac, which learns from 80%), but as means over users of each user's
  error, which are lower than errors over all ratings.
Measured: RMSE 0.9180 ±0.0055 over 3 seeds, 9 s each on AMD EPYC (1 cores) (docs/quality.md).
"""

import dataclasses
from pathlib import Path

from recjax.config import Experiment
from recjax.config_files import load_config
from recjax.data.protocols import under

# It takes what was tuned for matrix_factorization.py.
SEARCH: dict[str, tuple] = {}


def get_config() -> Experiment:
    """Returns the experiment of matrix_factorization.py under another protocol."""
    base = load_config(Path(__file__).with_name("matrix_factorization.py"))
    return dataclasses.replace(base, name="matrix_factorization_80_20", dataset=under("random_80_20", source="ml-100k"))
