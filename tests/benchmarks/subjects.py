"""What is compared: the same optimizers of gradx, Optax and torch, on the same values."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradx as gx
from gradx.analysis.cost import compiled_step
from tests import trees
from tests.benchmarks.machine import CPUS

TREES = {
    "gpt2": trees.gpt2,
    "vit_b16": trees.vit_b16,
    "resnet50": trees.resnet50,
}


class Optimizer(NamedTuple):
    """One optimizer in the words of each library."""

    make: Callable[[Any], Any]  # of gradx or Optax
    torch: Callable[..., Any] | None = None  # of torch.optim, the parameters, and how it runs
    clip: float | None = None  # the global norm that torch clips at, as a call of its own
    ours: Callable[[Any], Any] = lambda tx: tx  # what gradx alone has, around it


def clipped_adamw(m):
    return m.chain(m.clip_by_global_norm(1.0), m.adamw(1e-3, weight_decay=0.1))


def torch_adamw(o, ps, **how):
    return o.AdamW(ps, lr=1e-3, weight_decay=0.1, **how)


OPTIMIZERS = {
    "sgd+momentum": Optimizer(
        lambda m: m.sgd(1e-2, momentum=0.9), lambda o, ps, **how: o.SGD(ps, lr=1e-2, momentum=0.9, **how)
    ),
    "adam": Optimizer(lambda m: m.adam(1e-3), lambda o, ps, **how: o.Adam(ps, lr=1e-3, **how)),
    "adamw": Optimizer(lambda m: m.adamw(1e-3, weight_decay=0.1), torch_adamw),
    "clip+adamw": Optimizer(clipped_adamw, torch_adamw, clip=1.0),
    "clip+adamw, packed": Optimizer(clipped_adamw, ours=gx.packed),
    "lion": Optimizer(lambda m: m.lion(1e-3)),
    "adafactor": Optimizer(lambda m: m.adafactor(1e-2)),
    "lars": Optimizer(lambda m: m.lars(0.1, weight_decay=0.01)),
    "lamb": Optimizer(lambda m: m.lamb(1e-3, weight_decay=0.01)),
}


def tree_of(name: str, dtype: Any = jnp.float32) -> Any:
    """The shapes of a tree: a model by its name, or "40x256" for 40 leaves of 256 elements."""
    if name in TREES:
        return TREES[name](dtype=dtype)
    leaves, size = map(int, name.split("x"))
    return trees.one_large(size, dtype=dtype) if leaves == 1 else trees.small(leaves, size, dtype=dtype)


@functools.cache
def pool() -> np.ndarray:
    """A million normal numbers, of which all values are made: to draw each would take minutes."""
    return np.random.default_rng(0).standard_normal(10**6, np.float32)


def values(shape: Any, scale: float) -> np.ndarray:
    return scale * np.resize(pool(), shape.shape)


def arrays(shapes: Any, scale: float) -> Any:
    """JAX arrays of these shapes and dtypes, each in a buffer of its own."""
    return jax.tree.map(lambda s: jnp.array(values(s, scale), s.dtype), shapes)


PARAMETER, GRADIENT = 0.02, 0.01  # the scale of each


class OfJax:
    """An optimizer of gradx or Optax on one tree; its steps carry parameters and state on, donated."""

    def __init__(self, tx: Any, apply_updates: Callable, shapes: Any) -> None:
        self.tx, self.apply_updates, self.shapes = tx, apply_updates, shapes
        self.abstract_state = jax.eval_shape(tx.init, shapes)
        self.donated = len(jax.tree.leaves((shapes, self.abstract_state)))  # how many arrays
        self.jaxpr = self.compiled = self.params = self.state = self.grads = None

    def program(self) -> dict[str, float]:
        """Compile the step, all as if for the first time; the seconds that went into it."""

        def step(params, state, grads):
            updates, state = self.tx.update(grads, state, params)
            return self.apply_updates(params, updates), state

        jax.clear_caches()
        arguments = self.shapes, self.abstract_state, self.shapes
        self.jaxpr, self.compiled, seconds = compiled_step(step, arguments)
        return seconds

    def start(self, grads: Any) -> None:
        """Make parameters and state; gradients are only read, so others may have the same."""
        self.grads, self.params = grads, arrays(self.shapes, PARAMETER)
        self.state = self.init()

    def init(self) -> Any:
        return self.tx.init(self.params)

    def step(self) -> Any:
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        return self.params, self.state

    def eager(self) -> Any:
        """`update`, outside of jit."""
        updates, self.state = self.tx.update(self.grads, self.state, self.params)
        return updates, self.state


class OfTorch:
    """An optimizer of torch on the same leaves."""

    def __init__(self, optimizer: Optimizer, shapes: Any, how: str) -> None:
        torch = import_torch()
        tensor = lambda s, scale: torch.from_numpy(values(s, scale)).to(getattr(torch, s.dtype.name))
        leaves = jax.tree.leaves(shapes)
        self.params = [torch.nn.Parameter(tensor(s, PARAMETER)) for s in leaves]
        for p, s in zip(self.params, leaves, strict=True):
            p.grad = tensor(s, GRADIENT)
        self.optimizer = optimizer.torch(torch.optim, self.params, **{how: True})
        self.clip = optimizer.clip and functools.partial(
            torch.nn.utils.clip_grad_norm_, self.params, optimizer.clip, foreach=True
        )

    def step(self) -> None:
        if self.clip:
            self.clip()
        self.optimizer.step()


def import_torch() -> Any:
    """torch, with a thread for each core, which wait asleep: spinning, they take the cores of what runs next.

    And of what runs beside: on two cores that have other work, too, its steps then take ten times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(CPUS)
    return torch


def why_no_torch() -> str | None:
    """Why torch is left out, if it is."""
    if jax.default_backend() != "cpu":
        return f"it is compared on the CPU, and this runs on a {jax.default_backend().upper()}"
    try:
        import_torch()
    except ModuleNotFoundError:
        return "it is not installed (pip install 'gradx[bench]')"
    return None
