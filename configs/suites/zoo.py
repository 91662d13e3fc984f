"""One row of every model: trained on MovieLens 100K (trust: on FilmTrust), answering requests in batches of 64.

Training is cut short, so that it ends in about 5 minutes on 2 cores; `docs/quality.md` has the quality of whole
trainings. `make bench SUITE=zoo` fetches both sets first; `make data` does so alone.
"""

import dataclasses

from benchmarks.suite import Case, Measurement, Suite
from configs.filmtrust import social_lightgcn
from configs.ml_100k import (
    autorec_items,
    autorec_users,
    bert4rec,
    bpr,
    cdae,
    cfgan,
    cke,
    deepfm,
    din,
    dlrm,
    dlrm_dcnv2,
    ease,
    gru4rec,
    hstu,
    ials,
    irgan,
    item_knn,
    lightgcn,
    logistic_regression,
    lstm_two_branch,
    matrix_factorization,
    mult_dae,
    mult_vae,
    neumf,
    popularity,
    sasrec,
    two_tower,
    wide_and_deep,
)
from recjax.config import Experiment, Serving

# Each module with the epochs that it may train; those with a short training are whole.
MODELS = (
    (popularity, 1),
    (item_knn, 1),
    (ease, 1),
    (matrix_factorization, 20),
    (bpr, 40),
    (ials, 10),
    (autorec_items, 40),
    (autorec_users, 40),
    (mult_vae, 40),
    (mult_dae, 40),
    (cdae, 40),
    (cfgan, 40),
    (irgan, 10),
    (neumf, 4),
    (logistic_regression, 10),
    (wide_and_deep, 3),
    (deepfm, 3),
    (dlrm, 3),
    (dlrm_dcnv2, 3),
    (din, 2),
    (lstm_two_branch, 2),
    (gru4rec, 4),
    (sasrec, 4),
    (bert4rec, 6),
    (hstu, 4),
    (two_tower, 6),
    (lightgcn, 10),
    (social_lightgcn, 10),
    (cke, 6),
)


def briefly(experiment: Experiment, epochs: int) -> Experiment:
    """Returns the experiment with at most so many epochs, validated about four times, and one batch size."""
    epochs = min(epochs, experiment.training.epochs)
    training = dataclasses.replace(
        experiment.training,
        epochs=epochs,
        validation_every=max(1, epochs // 4),
        patience=0,
        warmup_steps=min(experiment.training.warmup_steps, 20),
    )
    return dataclasses.replace(experiment, training=training, serving=Serving(buckets=(64,)))


def get_suite() -> Suite:
    """Returns the suite."""
    return Suite(
        name="zoo",
        description="every model, briefly trained on MovieLens 100K (trust: FilmTrust): one row each",
        cases=tuple(Case(experiment=briefly(module.get_config(), epochs)) for module, epochs in MODELS),
        measurement=Measurement(scenarios=("offline",), rounds=5, window_s=0.15, min_queries=5),
    )
