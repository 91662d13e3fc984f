"""DLRM-DCNv2 at the size of MLCommons' training benchmark: 26 tables of up to 40 million rows, 105 GB in float32.

Paper: Naumov et al., DLRM (arXiv 1906.00091); Wang et al., DCN V2 (WWW 2021).
Command: recjax train configs/dlrm_v2_full.py --out runs/dlrm_v2_full, on devices that `recjax plan` says it fits.
Sizes: mlcommons/training, recommendation_v2/torchrec_dlrm/README.MD: dim 128, bottom MLP 512-256-128, three cross
layers of rank 512, top MLP 1024-1024-512-256-1, global batch 65,536, Adagrad with rate 0.005, one epoch.
Protocol: synthetic samples of the benchmark's shapes, drawn anew in every epoch; no run on them is an official result.
Expected: no reference on these samples; MLCommons trains to AUC 0.80275 on Criteo 1TB.
Measured: nothing; the file is for `recjax plan`.
"""

from recjax.config import Dataset, Experiment, Parallel, Serving, Training
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(
        epochs=1,
        batch_size=65_536,
        learning_rate=1e-3,
        table_optimizer="rowwise_adagrad",
        table_learning_rate=0.005,
    )
    return Experiment(
        name="dlrm_v2_full",
        dataset=Dataset(source="synthetic-dlrm-v2-full"),
        model=DLRMDCNv2Config(
            embedding_dim=128,
            bottom_mlp=(512, 256),
            cross_ranks=(512, 512, 512),
            top_mlp=(1024, 1024, 512, 256),
        ),
        training=training,
        finetuning=training,
        parallel=Parallel(strategy="pjit"),
        serving=Serving(buckets=(64, 512, 4096, 8192), slo_ms=60.0),
    )
