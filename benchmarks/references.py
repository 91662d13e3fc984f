"""The figures of the field that `docs/quality.md` holds recjax against, as data: value, protocol, source, tolerance."""

import dataclasses
from collections.abc import Mapping

from recjax.evaluation import LOWER_IS_BETTER

RECBOLE = "RecBole 1.2.1 with its defaults, seed 2020, early stop after 10 evaluations without gain, run on 2 CPU cores"
RECBOLE_DOCS = "RecBole's documentation, its results on ML-100K"
PLAIN_JAX = "a plain JAX program with the same architecture, about 80 epochs"
CORNAC = "Cornac's documentation, ratio split with a test share of 0.2"
RECOMMENDERS_JL = "yng87/Recommenders.jl, random 80/20, implicit"
CFGAN_REPLICATION = "CFGAN paper, splits of its ECIR 2022 replication"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What another program or paper reports for a model, under a protocol that recjax repeats.

    Attributes:
      metrics: name -> value on the test part.
      tolerance: relative for ranking metrics and ratings, absolute for AUC and logloss; a mean that misses the
        reference by more falls short.
      gates: whether recjax promises to reach it; others are cross-checks, whose splits differ in detail.
    """

    metrics: Mapping[str, float]
    source: str
    tolerance: float = 0.02
    gates: bool = True

    def floor(self, metric: str) -> float:
        """Returns the worst value of the metric that reaches the reference."""
        value, worse = self.metrics[metric], 1 if metric in LOWER_IS_BETTER else -1
        margin = self.tolerance if metric in ("auc", "logloss") else self.tolerance * value
        return value + worse * margin


def _ranking(recall: float, mrr: float, ndcg: float, hit: float, precision: float) -> dict[str, float]:
    return {"recall@10": recall, "mrr@10": mrr, "ndcg@10": ndcg, "hr@10": hit, "precision@10": precision}


# By the name of the experiment in configs/.
REFERENCES: Mapping[str, tuple[Reference, ...]] = {
    "popularity": (Reference(metrics=_ranking(0.0838, 0.1896, 0.1005, 0.4708, 0.0824), source=RECBOLE),),
    "item_knn": (Reference(metrics=_ranking(0.2469, 0.4623, 0.2833, 0.7847, 0.1930), source=RECBOLE),),
    "ease": (Reference(metrics=_ranking(0.2805, 0.5277, 0.3295, 0.8197, 0.2206), source=RECBOLE),),
    "bpr": (
        Reference(metrics=_ranking(0.2502, 0.4823, 0.2931, 0.7932, 0.1988), source=RECBOLE),
        Reference(metrics=_ranking(0.2523, 0.4855, 0.2920, 0.7953, 0.1962), source=RECBOLE_DOCS),
    ),
    "neumf": (Reference(metrics=_ranking(0.2358, 0.4587, 0.2790, 0.7699, 0.1935), source=RECBOLE),),
    "mult_vae": (Reference(metrics=_ranking(0.2598, 0.4951, 0.3001, 0.8038, 0.2022), source=RECBOLE),),
    "mult_dae": (Reference(metrics=_ranking(0.2432, 0.4819, 0.2857, 0.7762, 0.1880), source=RECBOLE),),
    "cdae": (Reference(metrics=_ranking(0.1045, 0.2829, 0.1429, 0.5186, 0.1055), source=RECBOLE),),
    "popularity_leave_one_out": (
        Reference(
            metrics={"hr@10": 0.0710, "ndcg@10": 0.0361}, source="popularity of the same program's data", gates=False
        ),
    ),
    "gru4rec": (Reference(metrics={"hr@10": 0.1103, "ndcg@10": 0.0513}, source=f"{RECBOLE_DOCS} (defaults; weak)"),),
    "sasrec": (Reference(metrics={"hr@10": 0.200, "ndcg@10": 0.107}, source=PLAIN_JAX, tolerance=0.0),),
    "logistic_regression": (
        Reference(metrics={"auc": 0.7769, "logloss": 0.5621}, source=RECBOLE, tolerance=0.005),
        Reference(metrics={"auc": 0.7765, "logloss": 0.562}, source=RECBOLE_DOCS, tolerance=0.005),
    ),
    "wide_and_deep": (Reference(metrics={"auc": 0.7825, "logloss": 0.5798}, source=RECBOLE, tolerance=0.005),),
    "deepfm": (Reference(metrics={"auc": 0.7887, "logloss": 0.5579}, source=RECBOLE, tolerance=0.005),),
    "dlrm_dcnv2": (
        Reference(metrics={"auc": 0.7693, "logloss": 0.5972}, source=f"DCNv2 of {RECBOLE} (overfits)", tolerance=0.005),
    ),
    "matrix_factorization_80_20": (Reference(metrics={"rmse": 0.8998, "mae": 0.7430}, source=CORNAC, gates=False),),
    "popularity_80_20": (Reference(metrics={"ndcg@10": 0.220}, source=RECOMMENDERS_JL, gates=False),),
    "item_knn_80_20": (Reference(metrics={"ndcg@10": 0.399}, source=RECOMMENDERS_JL, gates=False),),
    "ials_80_20": (Reference(metrics={"ndcg@10": 0.440}, source=RECOMMENDERS_JL, gates=False),),
    "bpr_80_20": (Reference(metrics={"ndcg@10": 0.408}, source=RECOMMENDERS_JL, gates=False),),
    "cfgan_80_20": (
        Reference(
            metrics={"precision@5": 0.444, "precision@20": 0.294, "ndcg@5": 0.476, "ndcg@20": 0.433},
            source=CFGAN_REPLICATION,
        ),
    ),
}

# A model without a figure of its own must clear a simple model, or come near to another one, under the same protocol.
SIMPLE_MODEL_RATIO = 1.5  # of popularity's NDCG@10
OF_SASREC = ("gru4rec", "bert4rec", "hstu")
OF_SASREC_RATIO = 0.9  # of recjax's own SASRec, in HR@10 and NDCG@10

# What was tried for a model that falls short, by the name of its experiment.
TRIED: Mapping[str, str] = {}
