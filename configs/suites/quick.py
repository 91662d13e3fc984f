"""The main suite: two real models, six variants, four scenarios, in minutes on a laptop's CPU."""

from benchmarks.suite import Case, Measurement, Suite
from configs import dlrm_dcnv2_movielens_small, logistic_regression_movielens_small, sasrec_movielens_small
from recjax.transforms import bf16, chain, prune, quantize, shrink

# 0.6 is the least share, in steps of a tenth, at which SASRec's int8 layers fit in a sixth of its float ones.
VARIANTS = (
    chain(),
    chain(bf16()),
    chain(quantize(bits=8)),
    chain(prune(0.6)),
    chain(prune(0.6), shrink(finetune_epochs=1)),
    chain(prune(0.6), shrink(finetune_epochs=1), quantize(bits=8)),
)


def get_suite() -> Suite:
    """Returns the suite; a floor is one that popularity (SASRec) and logistic regression (DLRM) cannot reach."""
    return Suite(
        name="quick",
        description="SASRec and DLRM-DCNv2 on MovieLens latest-small: six variants, four scenarios",
        cases=(
            Case(experiment=sasrec_movielens_small.get_config(), variants=VARIANTS, validation_floor=0.04),
            Case(
                experiment=dlrm_dcnv2_movielens_small.get_config(),
                variants=VARIANTS,
                validation_floor=0.79,
                references=(logistic_regression_movielens_small.get_config(),),
            ),
        ),
        measurement=Measurement(processes=3, rounds=3, window_s=0.3, min_queries=12, probe_s=0.5, search_steps=5),
    )
