"""What gradx and Optax are asked in the same way for the table of libraries, and how."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from tests.problems import aval

MATRIX = jax.ShapeDtypeStruct((256, 256), jnp.float32)


def path(tx, start, grad, steps):
    """The parameters after so many steps, compiled as one loop, and the last update."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grad(params), state, params)
        return (optax.apply_updates(params, updates), state), updates

    (params, _), updates = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps))(start)
    return params, jax.tree.map(lambda u: u[-1], updates)


def falls(tx):
    """Is the way to a target at least halved in 100 steps?"""
    target = np.eye(4, dtype=np.float32)
    end, _ = path(tx, jnp.zeros((4, 4)), lambda p: p - target, 100)
    return bool(np.linalg.norm(end - target) < 0.5 * np.linalg.norm(target))


def bowl(p):
    """Rosenbrock's function; 0 at (1, 1)."""
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def without_a_schedule():
    """Prodigy, schedule-free SGD and SAM, as Optax has them."""
    free = optax.contrib.schedule_free_sgd(0.2, b1=0.9)
    return optax.contrib.prodigy(1.0), free, optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=2)


def entropy():
    """Optax's, of two classes with the same logits: log 2."""
    return optax.softmax_cross_entropy(np.zeros(2, np.float32), np.array([1.0, 0.0], np.float32))


def skips(tx):
    """A gradient of NaN moves nothing, and the next step is as the first."""
    params, update = jnp.ones(2), jax.jit(tx.update)
    state = tx.init(params)
    first, _ = update(params, state, params)
    nothing, state = update(np.full(2, np.nan, np.float32), state, params)
    then, _ = update(params, state, params)
    return not np.any(nothing) and np.array_equal(then, first)


def in_parts(state):
    """Has each device its part of both moments, and no more?"""
    slots = [x for x in jax.tree.leaves(state) if x.ndim]
    held = [x.addressable_shards[0].data.size * jax.device_count() for x in slots]
    return held == [MATRIX.size] * 2


class Jax:
    """What is asked of both in the same way; `m` is the module."""

    m: Any

    def has(self, *words):
        """Does any public name have one of the words in it?"""
        names = [n.lower() for m in (self.m, getattr(self.m, "contrib", self.m)) for n in dir(m)]
        return any(word in name for word in words for name in names if name[0] != "_")

    def lars_and_lamb(self):
        """A step goes by the norm of its layer, not by that of the gradient."""
        params = {"small": jnp.ones(8), "large": 10 * jnp.ones(8)}

        @jax.jit
        def norms(scale):
            grads = {name: scale * jnp.arange(1.0, 9.0) for name in params}
            updates = [
                tx.update(grads, tx.init(params), params)[0] for tx in (self.m.lars(0.1), self.m.lamb(0.1))
            ]
            return [[jnp.linalg.norm(u[name]) for u in updates] for name in params]

        (small, large), (small_again, _) = np.array(norms(1.0)), np.array(norms(100.0))
        return bool(np.allclose(large, 10 * small, rtol=1e-3) and np.allclose(small_again, small, rtol=1e-3))

    def shampoo(self):
        return self.has("shampoo", "soap")

    def sparse(self):
        return self.has("sparse")

    def kernels(self):
        """Adam's step of one array reads and writes each once, without a temporary."""
        tx, p = self.m.adam(1e-3), jnp.zeros((256, 256))
        compiled = jax.jit(tx.update, donate_argnums=(0, 1)).lower(p, tx.init(p), p).compile()
        return "XLA's" if compiled.memory_analysis().temp_size_in_bytes < p.nbytes else False

    def chain(self):
        """Both orders of a clip and momentum work, and differ."""
        links = [self.m.clip_by_global_norm(1.0), self.m.trace(0.9), self.m.scale(-0.1)]
        orders = [self.m.chain(*links), self.m.chain(links[1], links[0], links[2])]
        first, second = (np.array(path(tx, jnp.zeros(2), lambda p: p - 3.0, 3)[0]) for tx in orders)
        return bool(np.all(abs(first - second) > 0.01))

    def equality(self):
        make = lambda: self.m.chain(self.m.clip_by_global_norm(1.0), self.m.adamw(1e-3))
        try:
            pickled = pickle.loads(pickle.dumps(make()))
        except (AttributeError, pickle.PicklingError):
            return False
        return pickled == make() and hash(pickled) == hash(make())

    def fixed_state(self):
        """bf16 parameters with float32 gradients: the state after a step is like the one before."""
        params, tx = jnp.ones(4, jnp.bfloat16), self.m.adamw(1e-3)
        state = jax.eval_shape(tx.init, params)
        return aval(jax.eval_shape(tx.update, jnp.ones(4), state, params)[1]) == aval(state)

    def second_moment(self):
        """Under a constant gradient a step has the length of the learning rate."""
        params = jnp.zeros(4, jnp.bfloat16)
        _, last = path(self.m.adamw(0.125, weight_decay=0.0), params, jnp.ones_like, 3000)
        return bool(np.all(abs(-np.array(last, np.float32) / 0.125 - 1) < 0.05))

    def moved(self, tx):
        """Do 100 steps of 1e-4 lead from 1 to 0.99?"""
        end, _ = path(tx, jnp.ones(4096, jnp.bfloat16), lambda p: jnp.full_like(p, 1e-4), 100)
        return bool(abs(np.array(end, np.float32).mean() - 0.99) < 3e-3)  # bf16 has 1/256 there
