"""HSTU with MLCommons' DLRMv3's layers ranks 2,048 candidates after up to 256 items of history: suite dlrm_v3_like.

Paper: Zhai et al., Actions Speak Louder than Words (ICML 2024).
Command: recjax train configs/dlrm_v3_like.py --out runs/dlrm_v3_like
Sizes: mlcommons/inference, recommendation/dlrm_v3/configs.py: 5 layers, 4 heads, queries, keys and values of 128, dim
512, 32 candidates in training and 2,048 in requests. Tables are at 1/10,000: 100,000 items and 500 users. Histories are
1/32 as long, 210 items on average; `--set dataset.max_history=8192` gives them MLCommons' lengths, 6,715 on average.
Protocol: synthetic requests of the benchmark's shapes; no run on them is an official result.
Expected: no reference on these requests; MLCommons' model reaches AUC 0.78663 on its own.
Measured: nothing; one epoch of 256 requests only makes the weights real. docs/workloads.md says what is MLCommons'.
"""

from recjax.config import Dataset, Experiment, Serving, Training
from recjax.models.hstu_ranker import HSTURankerConfig


def get_config() -> Experiment:
    """Returns the experiment; MLCommons computes in bfloat16, which here is the transform bf16()."""
    training = Training(
        epochs=1,
        batch_size=4,
        learning_rate=3e-4,
        max_grad_norm=1.0,
        table_optimizer="rowwise_adagrad",
        table_learning_rate=0.02,
    )
    return Experiment(
        name="dlrm_v3_like",
        dataset=Dataset(source="synthetic-dlrm-v3-1of10000", max_history=256),
        model=HSTURankerConfig(),
        training=training,
        finetuning=training,
        serving=Serving(buckets=(1, 8), slo_ms=80.0),
    )
