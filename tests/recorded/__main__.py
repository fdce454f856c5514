"""`python -m tests.recorded`: write the numbers of PyTorch and Keras into the files of this folder."""

import json
import os
import warnings
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch

from tests.recorded import HALF, HERE, STEPS, gradient, start
from tests.recorded.rows import KERAS, PAIRS, RATES, TORCH


def listed(x: Any) -> Any:
    """A tensor, an array or a number as JSON has it."""
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64).tolist()


def of_torch(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The parameters of torch in the middle and at the end, and its state in the middle."""
    ps = [torch.nn.Parameter(torch.tensor(x)) for x in start()]
    optimizer, found = getattr(torch.optim, name)(ps, **kwargs), {}
    for i in range(STEPS):
        if i == HALF:
            states = optimizer.state_dict()["state"]
            kept = {k: {n: listed(x) for n, x in s.items() if x is not None} for k, s in states.items()}
            found |= {"middle": list(map(listed, ps)), "state": kept}
        for p, g in zip(ps, gradient(i), strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
    return found | {"end": list(map(listed, ps))}


def of_keras(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The parameters of Keras in the middle and at the end."""
    variables = [keras.Variable(x, dtype="float64") for x in start()]
    optimizer, found = getattr(keras.optimizers, name)(**kwargs), {}
    optimizer.build(variables)
    for i in range(STEPS):
        if i == HALF:
            found |= {"middle": [listed(v.value) for v in variables]}
        optimizer.apply(gradient(i), variables)
    return found | {"end": [listed(v.value) for v in variables]}


def of_scheduler(name: str, kwargs: dict[str, Any], steps: int, lr: float) -> dict[str, Any]:
    """The learning rate at each step, and the momentum."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr, momentum=0.9)
    scheduler, seen = getattr(torch.optim.lr_scheduler, name)(optimizer, **kwargs), []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        seen.append((float(group["lr"]), float(group["momentum"])))
        optimizer.step()
        scheduler.step()
    return dict(zip(["rates", "momenta"], zip(*seen, strict=True), strict=True))


def all_numbers() -> dict[str, list]:
    """What the files hold, by their names."""
    torch.set_default_dtype(torch.float64)
    keras.backend.set_floatx("float64")
    # Keras has the means of Adafactor in float32, whatever the dtype is.
    mean, keras.src.ops.mean = keras.src.ops.mean, lambda x, **kwargs: jnp.mean(jnp.asarray(x), **kwargs)
    try:
        return {
            "torch": [of_torch(*row) for row in TORCH],
            "keras": [of_keras(*row) for row in KERAS],
            "rates": [of_scheduler(*row, lr=0.3)["rates"] for row in RATES],
            "pairs": [of_scheduler(*row, steps=100, lr=0.1) for row in PAIRS],
        }
    finally:
        keras.src.ops.mean = mean
        torch.set_default_dtype(torch.float32)


def main() -> None:
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("ignore")
        for name, numbers in all_numbers().items():
            (HERE / f"{name}.json").write_text("[\n" + ",\n".join(map(json.dumps, numbers)) + "\n]\n")


if __name__ == "__main__":
    main()
