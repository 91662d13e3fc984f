"""Sharding rules that models share: which parameters are split along the mesh axis "model", and by which of their axes.

Layers in a row alternate, so that what one splits the next adds up and a single all-reduce serves both.

Source: Shoeybi et al., Megatron-LM (arXiv 1909.08053), section 3. There a table is split along its vocabulary; here
tables are whole under these rules, and with row updates they have a layout of their own (recjax.parallel.table_plan).
"""

from jax.sharding import PartitionSpec

Rules = tuple[tuple[str, PartitionSpec], ...]

WHOLE = PartitionSpec()
BY_OUTPUT = PartitionSpec(None, "model")  # a kernel [I, O] whose outputs are split
BY_INPUT = PartitionSpec("model", None)  # a kernel [I, O] whose inputs are; its outputs are added up
OF_OUTPUT = PartitionSpec("model")  # a bias of split outputs

# Each is the last rule of a model: tables, and what every device needs whole.
TABLES: Rules = ((r"(^|/)table$", WHOLE),)
NORMS: Rules = ((r"norm\w*/(scale|bias)$", WHOLE),)


def dense_rules(path: str, *, split: str = "") -> Rules:
    """Returns the rules of a dense layer; `path` is a regular expression.

    Args:
      path: of the layer, as in "logit".
      split: "output", "input", or nothing for a layer that is whole.
    """
    kernel = {"output": BY_OUTPUT, "input": BY_INPUT, "": WHOLE}[split]
    return (
        (rf"(^|/){path}/kernel$", kernel),
        (rf"(^|/){path}/bias$", OF_OUTPUT if split == "output" else WHOLE),
    )


def mlp_rules(path: str) -> Rules:
    """Returns the rules of an MLP: `dense_0`, `dense_2` and so on are split by outputs, those between by inputs."""
    return (
        *dense_rules(rf"{path}/dense_\d*[02468]", split="output"),
        *dense_rules(rf"{path}/dense_\d+", split="input"),
    )


def block_rules() -> Rules:
    """Returns the rules of transformer blocks: attention by its heads, the MLP by its hidden units."""
    attention = r"block_\d+/attention"
    return (
        *dense_rules(rf"{attention}/(query|key|value)", split="output"),
        *dense_rules(rf"{attention}/out", split="input"),
        *mlp_rules(r"block_\d+/mlp"),
        *NORMS,
    )
