"""Which peers there are, what each computes and what it needs. Nothing of theirs is imported here."""

import dataclasses
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping

from benchmarks.peers.workloads import KINDS

ALL_KINDS = tuple(KINDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """One contestant.

    Attributes:
      name: in rows and on the command line.
      prepare: "module:function" that takes the task and returns the function that compiles for a batch size.
      needs: packages by the names of their modules.
      kinds: of workloads that it has; others it does not enter.
      mode: how it answers, in words.
    """

    name: str
    prepare: str
    needs: Mapping[str, str]
    kinds: tuple[str, ...] = ALL_KINDS
    mode: str


RECJAX = Peer(
    name="recjax",
    prepare="benchmarks.peers.recjax_served:prepare",
    needs={"jax": "jax", "jaxlib": "jaxlib", "flax": "flax"},
    mode="CompiledModel, one program a batch size",
)
PEERS = (
    RECJAX,
    dataclasses.replace(RECJAX, name="recjax-again", mode=f"{RECJAX.mode}; a second process, for the noise"),
    Peer(
        name="torch-eager",
        prepare="benchmarks.peers.pytorch_eager:prepare",
        needs={"torch": "torch"},
        mode="eval(), inference_mode()",
    ),
    Peer(
        name="torch-compile",
        prepare="benchmarks.peers.pytorch_compiled:prepare",
        needs={"torch": "torch"},
        mode="torch.compile with frozen weights, one program a batch size; eval(), inference_mode()",
    ),
    Peer(
        name="onnxruntime",
        prepare="benchmarks.peers.onnx_runtime:prepare",
        needs={"onnxruntime": "onnxruntime", "onnx": "onnx"},
        mode="all graph optimisations, one session a batch size",
    ),
    Peer(
        name="keras-rs",
        prepare="benchmarks.peers.keras_recommenders:prepare",
        needs={"keras_rs": "keras-rs", "keras": "keras", "jax": "jax"},
        mode="JAX backend, stateless_call under jax.jit, one program a batch size",
    ),
    Peer(
        name="fbgemm",
        prepare="benchmarks.peers.fbgemm_tables:prepare",
        needs={"fbgemm_gpu": "fbgemm-gpu-cpu", "torch": "torch"},
        kinds=("bags",),
        mode="IntNBitTableBatchedEmbeddingBagsCodegen of float32 tables, no bounds check",
    ),
    Peer(
        name="torchrec",
        prepare="benchmarks.peers.torchrec_tables:prepare",
        needs={"torchrec": "torchrec", "fbgemm_gpu": "fbgemm-gpu-cpu", "torch": "torch"},
        kinds=("bags",),
        mode="quant.EmbeddingBagCollection of float32 tables",
    ),
)


def missing(peer: Peer) -> str | None:
    """Returns what this Python lacks for the peer, None if nothing."""
    absent = [package for module, package in peer.needs.items() if importlib.util.find_spec(module) is None]
    if not absent:
        return None
    are = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {are} not installed for Python {platform.python_version()} (docs/peers.md says how)"


def versions(peer: Peer) -> dict[str, str]:
    """Returns the versions of Python and of what the peer needs."""
    found = {package: importlib.metadata.version(package) for package in peer.needs.values()}
    return {"python": platform.python_version(), **found}
