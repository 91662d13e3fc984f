"""What int8 products and half the units give a wide MLP in large batches: the DLRM-DCNv2 of `transforms`, on its own.

The question has a different answer with instructions for int8 and without; this asks it of a processor in minutes.
"""

import dataclasses

from benchmarks.suite import Suite
from configs.suites import transforms
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.transforms import bf16, chain, prune, quantize, shrink

BRIEF = transforms.BRIEF


def get_suite() -> Suite:
    """Returns the suite."""
    suite = transforms.get_suite()
    (case,) = [case for case in suite.cases if isinstance(case.experiment.model, DLRMDCNv2Config)]
    variants = (
        chain(),
        chain(bf16()),
        chain(quantize()),
        chain(quantize(when="after")),
        chain(quantize(backend="qwix")),
        chain(quantize(activations="static", when="after")),
        chain(prune(0.5), shrink(finetune_epochs=BRIEF)),
        chain(prune(0.5), shrink(finetune_epochs=BRIEF), quantize()),
        chain(shrink(0.5, finetune_epochs=BRIEF)),
        chain(shrink(0.5, finetune_epochs=BRIEF), quantize()),
        chain(shrink(0.5, finetune_epochs=BRIEF), quantize(backend="qwix")),
    )
    return dataclasses.replace(
        suite,
        name="wide_mlp",
        description="DLRM-DCNv2 with an MLP of 1024-1024-512 on MovieLens 100K: int8, half the units, both",
        cases=(dataclasses.replace(case, variants=variants),),
    )
