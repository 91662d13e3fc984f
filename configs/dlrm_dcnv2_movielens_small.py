"""DLRM-DCNv2 on MovieLens latest-small: will this user give this movie at least 4 stars at this moment?

Paper: Naumov et al., DLRM (arXiv 1906.00091); Wang et al., DCN V2 (WWW 2021).
Command: recjax train configs/dlrm_dcnv2_movielens_small.py --out runs/dlrm
Hardware and time: 2 cores of a server CPU, 1 to 2 minutes.
Protocol: all interactions, random 8:1:1, label = rating >= 4.
Expected: no reference on this set.
Measured: benchmarks/results/quick-seeds/seeds.md, fp32: mean and deviation of test AUC over eight seeds, beside
logistic regression's. The suites train as this command does and then fine-tune for the epochs of `finetuning`.
"""

from recjax.config import Dataset, Experiment, Serving, Training
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="dlrm_dcnv2",
        dataset=Dataset(split="random", ratios=(0.8, 0.1, 0.1), min_interactions=1),
        model=DLRMDCNv2Config(
            embedding_dim=64,
            bottom_mlp=(64,),
            cross_ranks=(64, 64, 64),
            top_mlp=(512, 256),
            embedding_dropout_rate=0.3,
        ),
        training=Training(epochs=5, batch_size=256, learning_rate=3e-3, weight_decay=0.3, decay="cosine"),
        finetuning=Training(epochs=2, batch_size=256, learning_rate=5e-4, weight_decay=0.3, decay="cosine", seed=1),
        serving=Serving(buckets=(1, 8, 32, 128, 512, 2048), slo_ms=10.0),
    )
