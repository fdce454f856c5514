"""What gradx has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.sharding import NamedSharding, PartitionSpec

import gradx as gx
from tests import catalogue
from tests.features.shared import MATRIX, Jax, bowl, entropy, falls, in_parts, skips, without_a_schedule


def behind_a_clip(tx):
    """A transformation of Optax's as a link of a chain of gradx."""
    return gx.chain(gx.clip_by_global_norm(100.0), tx)


class Gradx(Jax):
    m = gx

    def muon(self):
        return "Optax's" if falls(behind_a_clip(optax.contrib.muon(0.05))) and not self.has("muon") else False

    def schedule_free(self):
        return "Optax's" if all(falls(behind_a_clip(tx)) for tx in without_a_schedule()) else False

    def losses(self):
        return "Optax's" if np.allclose(entropy(), np.log(2)) and not self.has("entropy") else False

    def optimizers(self):
        return f"{len(catalogue.ABOUT)}, and Optax's"

    def lbfgs(self):
        found = gx.minimize(bowl, jnp.array([-1.2, 1.0]), tol=1e-3)
        return bool(found.status == gx.Status.CONVERGED and jnp.allclose(found.x, 1.0, atol=1e-2))

    def rule(self):
        """With a slot, over a tree."""

        def rule(g, trace, decay):
            trace = decay * trace + g
            return jnp.sign(trace), trace

        tx = gx.leafwise(optax.TraceState, rule, decay=0.9)
        grads = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
        updates, state = tx.update(grads, tx.init(grads))
        return bool(jnp.array_equal(updates["a"], jnp.array([1.0, -1.0])) and state.trace["b"] == 3.0)

    def small_steps(self):
        links = gx.stochastic_rounding(0), gx.kahan()
        return all(self.moved(gx.chain(gx.sgd(1.0), link)) for link in links)

    def eight_bits(self):
        """Bytes of the state for each parameter."""
        tx = gx.store(gx.adamw(1e-3), gx.Blockwise(), seed=0)
        return gx.summarize(tx, MATRIX).bytes_per_parameter < 2.2

    def weighted(self):
        """Gradients 1 and 4 of 3 tokens and 1: the mean is 1.75."""
        params, tx = jnp.zeros(2), gx.accumulate(gx.sgd(1.0), 2, weight="num_tokens")
        state, update = tx.init(params), jax.jit(tx.update)
        for g, tokens in ((1.0, 3), (4.0, 1)):
            updates, state = update(np.full(2, g, np.float32), state, params, num_tokens=tokens)
        return bool(np.allclose(updates, -1.75))

    def skipping(self):
        return skips(gx.skip_if(gx.adamw(1e-3), gx.nonfinite()))

    def groups(self):
        """One pattern is enough for the heads of a tree."""
        grads = {"head": jnp.ones(2), "body": jnp.ones(2)}
        tx = gx.groups(gx.sgd(0.1), {"^head": dict(learning_rate=1.0)})
        updates, _ = tx.update(grads, tx.init(grads), grads)
        return "by path" if (updates["head"][0], updates["body"][0]) == (-1.0, jnp.float32(-0.1)) else False

    def unused_group(self):
        try:
            gx.groups(gx.sgd(0.1), {"^haed": gx.frozen()}).init({"head": jnp.ones(2)})
        except ValueError as error:
            return "haed" in str(error)
        return False

    def one_cycle(self):
        """At the highest rate the momentum is lowest."""
        rate, momentum = gx.one_cycle_schedule(1.0, 100)
        both = jax.jit(jax.vmap(lambda step: (rate(step), momentum(step))))
        rates, momenta = map(np.array, both(np.arange(100)))
        return bool(rates.argmax() == momenta.argmin() and momenta.max() > momenta.min())

    def searching(self):
        """Of a bowl, on which SGD diverges above a rate of 1; the best of five losses."""
        start, loss = jnp.ones(2), lambda p, batch: jnp.sum((p - batch) ** 2)
        found = gx.lr_range_test(loss, gx.sgd(1e-3), start, jnp.zeros((8, 2)))
        stopping = gx.early_stopping(patience=2)
        stop = stopping.init(start)
        for value in (3.0, 1.0, 2.0, 2.0, 2.0):
            stop = stopping.update(stop, value, value * start)
        return 1e-3 < found.suggestion < 1 and bool(stop.should_stop and stop.best_params[0] == 1.0)

    def averages(self):
        """Parameters 1, 2, 3 have the mean 2."""
        params, tx = jnp.zeros(()), gx.chain(gx.sgd(1.0), gx.average_params())
        state = tx.init(params)
        for _ in range(3):
            params, state = gx.step(tx)(-np.ones((), np.float32), state, params)
        return float(gx.eval_params(state, params)) == 2.0

    def zero(self):
        """Each of the devices has its part of both moments."""
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        whole, tx = NamedSharding(mesh, PartitionSpec()), gx.adamw(1e-3)
        parts = gx.state_sharding(tx, MATRIX, whole, zero_axis="data")
        state = jax.jit(tx.init, out_shardings=parts)(jax.device_put(jnp.zeros(MATRIX.shape), whole))
        return in_parts(state)

    def migration(self):
        """From Adam to AMSGrad, with its moments."""
        params, adam, amsgrad = jnp.ones(2), gx.adam(1e-3), gx.amsgrad(1e-3)
        _, state = adam.update(params, adam.init(params), params)
        moved = gx.migrate(state, adam, amsgrad, params).state
        _, moved = amsgrad.update(params, moved, params)
        return int(gx.get_slot(moved, params, "count")) == 2

    def cost(self):
        """AdamW moves three arrays in, beside the gradient, and three out: 40 bytes as XLA counts."""
        return abs(gx.cost(gx.adamw(1e-3), MATRIX, platform="cpu").moved_per_parameter - 40) < 1
