"""The README's table of optimizers, made from the table of rows: `python -m tests.catalogue` prints it.

A line for each optimizer here; slots and bytes are those of the state that `init` makes for the
first row of the optimizer, and for the variants named here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tests.cases import CASES


class About(NamedTuple):
    """What the README says of an optimizer."""

    paper: str
    when: str
    rate: str
    variants: dict[str, dict[str, Any]] = {}  # what it is called -> the arguments that make it


ABOUT = {
    "sgd": About(
        "Robbins & Monro 1951; momentum: Polyak 1964, Nesterov 1983",
        "vision, with a schedule",
        "0.01 – 1",
        {"momentum": dict(momentum=0.9)},
    ),
    "adam": About("[Kingma & Ba 2015](https://arxiv.org/abs/1412.6980)", "most things", "1e-4 – 3e-3"),
    "adamw": About(
        "[Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101)",
        "most things, transformers first",
        "1e-4 – 3e-3",
    ),
    "lion": About(
        "[Chen et al. 2023](https://arxiv.org/abs/2302.06675)",
        "less memory, large batches",
        "a tenth to a third of Adam's",
    ),
    "lars": About(
        "[You et al. 2017](https://arxiv.org/abs/1708.03888)", "very large batches, convolutions", "0.1 – 30"
    ),
    "lamb": About(
        "[You et al. 2020](https://arxiv.org/abs/1904.00962)",
        "very large batches, transformers",
        "1e-3 – 1e-2",
    ),
    "radam": About(
        "[Liu et al. 2019](https://arxiv.org/abs/1908.03265)", "Adam without a warm-up", "1e-4 – 3e-3"
    ),
    "ranger": About(
        "Wright 2019: RAdam, [Lookahead](https://arxiv.org/abs/1907.08610), "
        "[centralization](https://arxiv.org/abs/2004.01461)",
        "vision, with little tuning",
        "1e-3 – 1e-2",
    ),
    "polyak_sgd": About(
        "[Loizou et al. 2021](https://arxiv.org/abs/2002.10542)",
        "models that fit their data, with no rate to tune",
        "from the loss",
    ),
    "lbfgs": About(
        "Liu & Nocedal 1989",
        "few parameters, no noise: fits, through `minimize`",
        "from a line search",
    ),
}

MATRIX = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)


def memory(tx: Any) -> tuple[int, str]:
    """(slots of the parameter's size, stacked or not; bytes of state a parameter) of a float32 matrix."""
    state = jax.tree.leaves(jax.eval_shape(tx.init, MATRIX))
    size = sum(x.size * x.dtype.itemsize for x in state) / MATRIX.size
    return sum(x.size // MATRIX.size for x in state), f"{size:.2f}".rstrip("0").rstrip(".")


def line(name: str, about: About) -> str:
    case = next(c for c in CASES if c.optimizer.__name__ == name)
    made = {"": case.make()} | {f" with {k}": case.make(**v) for k, v in about.variants.items()}
    columns = zip(*map(memory, made.values()), strict=True)
    slots, size = (", ".join(f"{x}{k}" for k, x in zip(made, column, strict=True)) for column in columns)
    return f"| `{name}` | {about.paper} | {slots} | {size} | {about.when} | {about.rate} |"


def table() -> str:
    head = ["", "paper", "slots", "state bytes per parameter", "when", "learning rate"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(rows + [line(name, about) for name, about in ABOUT.items()])


if __name__ == "__main__":
    print(table())
