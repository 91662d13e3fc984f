"""DLRM-DCNv2 with MLCommons' layers and bags over a hundredth of its tables, on synthetic clicks: suite dlrm_v2_like.

Paper: Naumov et al., DLRM (arXiv 1906.00091); Wang et al., DCN V2 (WWW 2021).
Command: recjax train configs/dlrm_v2_like.py --out runs/dlrm_v2_like
Sizes: mlcommons/training, recommendation_v2/torchrec_dlrm/README.MD: dim 128, bottom MLP 512-256-128, three cross
layers of rank 512, top MLP 1024-1024-512-256-1; 26 tables of 2.04 million rows in all, 214 ids a sample.
Protocol: synthetic samples of the benchmark's shapes; no run on them is an official result.
Expected: no reference on these samples; MLCommons trains to AUC 0.80275 on Criteo 1TB, with all rows.
Measured: nothing; one epoch of 16,384 samples only makes the weights real. docs/workloads.md says what is MLCommons'.
"""

from recjax.config import Dataset, Experiment, Serving, Training
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config


def get_config() -> Experiment:
    """Returns the experiment."""
    training = Training(
        epochs=1,
        batch_size=512,
        learning_rate=1e-3,
        table_optimizer="rowwise_adagrad",
        table_learning_rate=0.02,
    )
    return Experiment(
        name="dlrm_v2_like",
        dataset=Dataset(source="synthetic-dlrm-v2-1of100"),
        model=DLRMDCNv2Config(
            embedding_dim=128,
            bottom_mlp=(512, 256),
            cross_ranks=(512, 512, 512),
            top_mlp=(1024, 1024, 512, 256),
        ),
        training=training,
        finetuning=training,
        # A query holds 100 to 700 samples; three of the commonest size, 200, fit into one batch of 700.
        serving=Serving(buckets=(200, 400, 700), slo_ms=60.0),
    )
