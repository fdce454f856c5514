"""Add random numbers to the updates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax import AddNoiseState

from gradx.core.factory import factory
from gradx.core.foreign import widened
from gradx.core.hyperparameters import ScalarOrSchedule, resolve
from gradx.core.ranges import FINITE, check, declare_ranges
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import flatten
from gradx.engine.leaf_checks import present
from gradx.numerics.arrays import increment
from gradx.numerics.dtypes import real_dtype

__all__ = ["AddNoiseState", "add_noise"]

declare_ranges(eta=FINITE)


@factory
def add_noise(
    eta: ScalarOrSchedule,
    gamma: ScalarOrSchedule,
    key: jax.Array | int | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """Add normal noise that fades (Neelakantan et al. 2015, arXiv:1511.06807).

        u = g + √(eta / tᵞ) * noise, with t = 1 at the first step and standard normal noise

    Arguments:
      eta: variance of the noise at the first step, at least 0; 0.01 to 1 in the paper.
      gamma: how fast the variance fades, any number; 0.55 in the paper, 0 not at all.
      key: a `jax.random.key`, a raw key (uint32), or an integer to make a key of.
      seed: Optax's old name for an integer key.

    The noise has the dtype in which rules compute; complex noise has its variance shared by the real and
    the imaginary part. The state holds the key of the steps to come. Raises TypeError unless one of key
    and seed is given.
    """
    owner = "add_noise"
    if (key is None) == (seed is None):
        raise TypeError(
            f"{owner}: give one of key and seed, say key=0 or key=jax.random.key(0), and to each link "
            "another: two with the same key add the same noise"
        )
    given: Any = seed if key is None else key
    check(owner, eta=eta, gamma=gamma)
    check_key(owner, given)

    def init(params):
        present(*flatten(params), owner)
        return AddNoiseState(jnp.zeros((), jnp.int32), new_key(given))

    def observe(updates, state, params=None, **extra):
        check_state(owner, AddNoiseState, state)
        leaves, treedef = flatten(updates)
        gs = widened(present(leaves, treedef, owner))
        later, now = jax.random.split(state.rng_key)
        for i, own in zip(gs, jax.random.split(now, len(gs)), strict=True):
            leaves[i] = noisy(gs[i], own, state.count)
        return treedef.unflatten(leaves), AddNoiseState(increment(state.count), later), ()

    def noisy(g, own, count):
        dtype = real_dtype(g.dtype)
        now: Any = resolve(owner, {"eta": eta, "gamma": gamma}, count, dtype)
        deviation = jnp.sqrt(now["eta"] * increment(count).astype(dtype) ** -now["gamma"])
        return g + deviation * jax.random.normal(own, g.shape, g.dtype, out_sharding=jax.typeof(g).sharding)

    return GradientTransformation.of(init, observe)


def check_key(owner: str, key: Any, name: str = "key") -> None:
    """Raise unless `key` is an integer or one random key."""
    ndim, dtype = np.ndim(key), getattr(key, "dtype", None)
    if is_typed(key):
        valid = ndim == 0
    elif dtype is None:
        valid = isinstance(key, int) and not isinstance(key, bool)
    else:
        valid = jnp.issubdtype(dtype, jnp.integer) if ndim == 0 else ndim == 1 and dtype == np.uint32
    if not valid:
        raise TypeError(f"{owner}: {name} must be an integer or one random key, got {key!r}")


def new_key(given: Any) -> jax.Array:
    """The key for a state: made of an integer, or a copy of one that was given."""
    is_seed = np.ndim(given) == 0 and not is_typed(given)
    # A copy: the state may be donated, and this key is needed for the next `init`.
    return jax.random.key(given) if is_seed else jnp.copy(given)


def is_typed(key: Any) -> bool:
    """Whether this is a key as `jax.random.key` makes them."""
    return hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
