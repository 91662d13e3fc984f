"""The words of `docs/transforms.md`: what no row can say."""

import dataclasses

INTRODUCTION = """# Transforms

What each transform buys, what it costs, and where it does not pay. The figures are of {device} with JAX {jax}, from the
rows in `{folder}`, and this page is made of them:

    make bench SUITE=transforms
    python -m benchmarks.transforms_page

Every figure is of this machine and these models. The same command makes the page for yours."""

EXAMPLE = """## How to use one

```python
from recjax.transforms import chain, explain, prune, quantize, shrink

smaller = chain(prune(0.5), shrink(), quantize(8))  # an order that cannot work is refused here, with one that can
explain(smaller, experiment)  # per layer: what happens, bytes and operations before and after; nothing is trained
```

`Experiment(transforms=smaller.members, ...)` trains, finalizes and serves it; `recjax explain CONFIG` prints the same
table for a config file. [architecture.md](architecture.md) tells how a transform is built."""

HOW_TO_READ = """Speed is samples/s over fp32's in the same rounds, the median of nine: *faster* or *slower* where all
nine agree. *Quality kept* is over fp32's on the test part, with the 95% interval of a paired bootstrap over the test
queries: it does not hold what another seed would move. *Bytes* are all that is stored, over fp32's. *Training steps*
is the speed of steps alone. The largest batch is in brackets."""


@dataclasses.dataclass(frozen=True)
class Topic:
    """A section: its title, its words, and the variants that its table shows."""

    title: str
    words: str
    labels: tuple[str, ...]


TOPICS: tuple[Topic, ...] = ()
