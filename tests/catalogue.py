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
    "noisy_sgd": About(
        "[Neelakantan et al. 2015](https://arxiv.org/abs/1511.06807)",
        "very deep networks from poor starts",
        "0.01 – 1",
    ),
    "asgd": About(
        "[Polyak & Juditsky 1992](https://doi.org/10.1137/0330046)", "convex problems, long runs", "0.01 – 1"
    ),
    "polyak_sgd": About(
        "[Loizou et al. 2021](https://arxiv.org/abs/2002.10542)",
        "models that fit their data, with no rate to tune",
        "from the loss",
    ),
    "optimistic_gradient_descent": About(
        "[Mokhtari et al. 2020](https://arxiv.org/abs/1901.08511)", "min-max games", "0.01 – 1"
    ),
    "adagrad": About(
        "[Duchi et al. 2011](https://jmlr.org/papers/v12/duchi11a.html)", "sparse features", "0.01 – 1"
    ),
    "rmsprop": About(
        "[Hinton 2012](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf)",
        "recurrent networks, control",
        "1e-4 – 1e-2",
        {"momentum": dict(momentum=0.9), "centered": dict(centered=True)},
    ),
    "adadelta": About("[Zeiler 2012](https://arxiv.org/abs/1212.5701)", "no rate to tune", "1"),
    "rprop": About(
        "[Riedmiller & Braun 1993](https://doi.org/10.1109/ICNN.1993.298623)",
        "full batches, without noise",
        "0.01, for the first step",
    ),
    "adam": About("[Kingma & Ba 2015](https://arxiv.org/abs/1412.6980)", "most things", "1e-4 – 3e-3"),
    "adamw": About(
        "[Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101)",
        "most things, transformers first",
        "1e-4 – 3e-3",
    ),
    "nadam": About(
        "[Dozat 2016](https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)",
        "as Adam, often a little faster at first",
        "1e-4 – 3e-3",
    ),
    "nadamw": About(
        "Dozat 2016; [Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101)",
        "as AdamW, often a little faster at first",
        "1e-4 – 3e-3",
    ),
    "radam": About(
        "[Liu et al. 2019](https://arxiv.org/abs/1908.03265)", "Adam without a warm-up", "1e-4 – 3e-3"
    ),
    "amsgrad": About(
        "[Reddi et al. 2018](https://arxiv.org/abs/1904.09237)",
        "rare large gradients after which Adam's steps grow again",
        "1e-4 – 3e-3",
    ),
    "adamax": About(
        "[Kingma & Ba 2015, §7.1](https://arxiv.org/abs/1412.6980)",
        "sparse gradients, embeddings",
        "1e-4 – 3e-3",
    ),
    "adamaxw": About(
        "Kingma & Ba 2015; [Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101)",
        "sparse gradients, with decay",
        "1e-4 – 3e-3",
    ),
    "yogi": About(
        "[Zaheer et al. 2018](https://proceedings.neurips.cc/paper/2018/file/90365351ccc7437a1309dc64e4db32a3-Paper.pdf)",
        "sparse gradients, the server of federated learning",
        "1e-3 – 1e-2",
    ),
    "adabelief": About(
        "[Zhuang et al. 2020](https://arxiv.org/abs/2010.07468)", "vision, GANs", "1e-4 – 3e-3"
    ),
    "adan": About(
        "[Xie et al. 2022](https://arxiv.org/abs/2208.06677)",
        "vision transformers, large learning rates",
        "5 to 10 times Adam's",
    ),
    "ranger": About(
        "Wright 2019: RAdam, [Lookahead](https://arxiv.org/abs/1907.08610), "
        "[centralization](https://arxiv.org/abs/2004.01461)",
        "vision, with little tuning",
        "1e-3 – 1e-2",
    ),
    "optimistic_adam": About(
        "[Daskalakis et al. 2018](https://arxiv.org/abs/1711.00141)",
        "GANs, with a separate rate for the optimism",
        "1e-4 – 3e-3",
    ),
    "optimistic_adam_v2": About(
        "[Daskalakis et al. 2018](https://arxiv.org/abs/1711.00141)", "GANs", "1e-4 – 3e-3"
    ),
    "lion": About(
        "[Chen et al. 2023](https://arxiv.org/abs/2302.06675)",
        "less memory, large batches",
        "a tenth to a third of Adam's",
    ),
    "sign_sgd": About(
        "[Bernstein et al. 2018](https://arxiv.org/abs/1802.04434)",
        "no memory at all, one bit of communication",
        "1e-5 – 1e-3",
    ),
    "signum": About(
        "[Bernstein et al. 2018](https://arxiv.org/abs/1802.04434)",
        "one bit of communication, with momentum",
        "1e-5 – 1e-3",
    ),
    "fromage": About(
        "[Bernstein et al. 2020](https://arxiv.org/abs/2002.03432)", "little to tune, GANs", "0.01"
    ),
    "lars": About(
        "[You et al. 2017](https://arxiv.org/abs/1708.03888)", "very large batches, convolutions", "0.1 – 30"
    ),
    "lamb": About(
        "[You et al. 2020](https://arxiv.org/abs/1904.00962)",
        "very large batches, transformers",
        "1e-3 – 1e-2",
    ),
    "novograd": About(
        "[Ginsburg et al. 2019](https://arxiv.org/abs/1905.11286)",
        "speech, large batches, without a warm-up",
        "1e-3 – 1e-2",
    ),
    "adafactor": About(
        "[Shazeer & Stern 2018](https://arxiv.org/abs/1804.04235)",
        "almost no memory, large transformers",
        "1e-3 – 1e-1, relative to the parameters",
        {"momentum": dict(learning_rate=0.1, momentum=0.9)},
    ),
    "sm3": About(
        "[Anil et al. 2019](https://arxiv.org/abs/1901.11150)",
        "Adagrad with little memory: sparse gradients, large embeddings",
        "0.05 – 0.5",
    ),
    "lbfgs": About(
        "Liu & Nocedal 1989",
        "few parameters, no noise: fits, through `minimize`",
        "from a line search",
    ),
}

MATRIX = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)


def memory(tx: Any) -> str:
    """Slots of the parameter's size, stacked or not (and bytes of state a parameter), of a float32 matrix."""
    state = jax.tree.leaves(jax.eval_shape(tx.init, MATRIX))
    size = sum(x.size * x.dtype.itemsize for x in state) / MATRIX.size
    return f"{sum(x.size // MATRIX.size for x in state)} ({f'{size:.2f}'.rstrip('0').rstrip('.')})"


def line(name: str, about: About) -> str:
    case = next(c for c in CASES if c.optimizer.__name__ == name)
    made = {"": case.make()} | {f" with {k}": case.make(**v) for k, v in about.variants.items()}
    slots = ", ".join(f"{memory(tx)}{variant}" for variant, tx in made.items())
    return f"| `{name}` | {about.paper} | {slots} | {about.when} | {about.rate} |"


def table() -> str:
    head = ["", "paper", "slots (bytes)", "when", "learning rate"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(rows + [line(name, about) for name, about in ABOUT.items()])


if __name__ == "__main__":
    print(table())
