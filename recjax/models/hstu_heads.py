"""Which parts of HSTU's parameters belong to a head: what both of its models tell those that take heads away."""

from recjax.models.contract import AttentionHeads, HeadSlice


def heads_of_blocks(
    layers: int, heads: int, key_dim: int, value_dim: int, normed_heads: int, *, biased: bool, out_parts: int
) -> tuple[AttentionHeads, ...]:
    """Returns the attention of every layer; one kernel makes gates, values, queries and keys, in this order.

    Args:
      layers: blocks, named block_0, block_1, ...
      heads: of each.
      key_dim: of a head's queries and keys.
      value_dim: of a head's values and gates.
      normed_heads: heads that the norm counts, absent ones too.
      biased: whether that kernel has a bias.
      out_parts: how many times as wide as all values what the last kernel reads is.
    """
    H, K, V = heads, key_dim, value_dim

    def columns(block: str, start: int, width: int) -> tuple[HeadSlice, ...]:
        kernel = HeadSlice(f"{block}/uvqk/kernel", 1, start, width)
        return (kernel, HeadSlice(f"{block}/uvqk/bias", 0, start, width)) if biased else (kernel,)

    return tuple(
        AttentionHeads(
            name=block,
            field="heads",
            count=H,
            fixed=(("normed_heads", normed_heads),),
            matching=(*columns(block, 2 * H * V, K), *columns(block, H * (2 * V + K), K)),
            factors=(
                columns(block, 0, V),
                columns(block, H * V, V),
                tuple(HeadSlice(f"{block}/out/kernel", 0, part * H * V, V) for part in range(out_parts)),
            ),
        )
        for block in (f"block_{i}" for i in range(layers))
    )
