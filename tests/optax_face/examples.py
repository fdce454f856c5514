"""Examples of the fuzz test: the text of a transformation, parameters and gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# What a text may name besides optax, jax, jnp and params.
HEAD = """
from functools import partial
def matrices(tree): return jax.tree.map(lambda x: x.ndim > 1, tree)
def labels(tree): return jax.tree.map(lambda x: "a" if x.ndim > 1 else "b", tree)
def even(step, **extra): return step % 2 == 0
def late(step): return step > 0
def falling(step): return 0.1 / (step + 1)
def growing(step): return step + 1
"""

CODE = """
import jax, numpy as np, jax.numpy as jnp, optax  # or: import gradx.optax as optax
{head}
random = np.random.default_rng({seed})
array = lambda shape, size=1.0: jnp.asarray(size * random.standard_normal(shape), jnp.{dtype})
params = {tree}
tx = optax.with_extra_args_support({tx}){pairs}
state = tx.init(params)
for size in {sizes}:
    grads = jax.tree.map(lambda p: array(p.shape, size), params{fast})
    updates, state = tx.update(grads, state, params, value=1.5)
    print(updates)
    params = optax.apply_updates(params, updates)
"""

TREES = [
    "array((3, 2))",
    "{'w': array((3, 2)), 'b': array((2,))}",
    "[array((4, 3)), None]",
    "array(())",
    "(array((2,)), [array((3, 2)), array(())])",
    "{'layers': [{'w': array((2, 3, 2))}, {'w': array((3, 2))}], 's': array(())}",
]


class Example(NamedTuple):
    """One example; `code` is what a user would write."""

    tx: str
    tree: str
    dtype: str
    sizes: tuple[float, ...]  # of the gradients of each step; NaN for a bad one
    seed: int

    @property
    def code(self) -> str:
        pairs = "\nparams = optax.LookaheadParams.init_synced(params)" if self.has_pairs else ""
        fast = ".fast" if self.has_pairs else ""
        return CODE.format(head=HEAD.strip(), pairs=pairs, fast=fast, **self._asdict()).replace(
            "nan", "np.nan"
        )

    @property
    def has_pairs(self) -> bool:
        return "lookahead(" in self.tx

    @property
    def searches(self) -> bool:
        """Whether an optimizer needs the gradients of a convex loss, for which `bowl` stands."""
        return "lbfgs(" in self.tx or "linesearch(" in self.tx

    @property
    def is_half(self) -> bool:
        return self.dtype in ("bfloat16", "float16")

    def arrays(self) -> tuple[Any, Any]:
        """The parameters, and the gradients of all steps, stacked."""
        random = np.random.default_rng(self.seed)
        array = lambda shape, size=1.0: normal(random, shape, self.dtype, size)
        params = eval(self.tree, {"array": array})
        every = [jax.tree.map(lambda p: array(p.shape, size), params) for size in self.sizes]
        return params, jax.tree.map(lambda *gs: np.stack(gs), *every)

    def make(self, module: Any, params: Any) -> optax.GradientTransformationExtraArgs:
        """The transformation, with `module` as `optax`."""
        names = {"optax": module, "jax": jax, "jnp": jnp, "params": params}
        exec(HEAD, names)
        return optax.with_extra_args_support(eval(self.tx, names))

    def argument_of(self, params: Any) -> Any:
        """What `init` and `update` are given for parameters."""
        return optax.LookaheadParams.init_synced(params) if self.has_pairs else params

    def extra(self, params: Any, grads: Any) -> dict[str, Any]:
        """The extra arguments of `update`."""
        if self.searches:
            return {"value": bowl(params), "grad": grads, "value_fn": bowl}
        return {"value": jnp.asarray(1.5, jnp.float32)}


def normal(random: np.random.Generator, shape: tuple[int, ...], dtype: str, size: float) -> np.ndarray:
    x = size * random.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * size * random.standard_normal(shape)
    return np.asarray(x, jnp.dtype(dtype))


def bowl(params: Any) -> jax.Array:
    """A convex loss."""
    weigh = lambda p: jnp.arange(1, p.size + 1, dtype=p.dtype).reshape(p.shape)
    return 0.5 * sum(jnp.sum(weigh(p) * p**2) for p in jax.tree.leaves(params))
