"""SASRec on MovieLens latest-small: next movie out of 3,496, from up to 50 watched ones.

Paper: Kang and McAuley, Self-Attentive Sequential Recommendation (ICDM 2018).
Command: recjax train configs/sasrec_movielens_small.py --out runs/sasrec
Hardware and time: 2 cores of a server CPU, 1 to 2 minutes.
Protocol: 5-core, leave-last-one-out by time, full catalogue, seen items removed.
Expected: no reference on this set.
Measured: benchmarks/results/quick-seeds/seeds.md, fp32: mean and deviation of test NDCG@10 over eight seeds, beside
popularity's. The suites train as this command does and then fine-tune for the epochs of `finetuning`.
"""

from recjax.config import Dataset, Experiment, Serving, Training
from recjax.models.sasrec import SASRecConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="sasrec",
        dataset=Dataset(split="leave_last_one_out", min_interactions=5, max_history=50),
        model=SASRecConfig(embedding_dim=64, heads=2, mlp_dims=(256, 256), dropout_rate=0.1),
        training=Training(epochs=16, batch_size=64, learning_rate=3e-3, warmup_steps=33, decay="cosine"),
        finetuning=Training(epochs=3, batch_size=64, learning_rate=3e-4, decay="cosine", seed=1),
        serving=Serving(buckets=(1, 8, 32, 128), slo_ms=25.0, top_k=10),
    )
