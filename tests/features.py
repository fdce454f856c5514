"""Probes of gradx and Optax for the table of libraries: each uses the library, and gives what the cell says."""

import inspect
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import NamedSharding, PartitionSpec

import gradx as gx
from tests import catalogue
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
    target = jnp.eye(4)
    end, _ = path(tx, jnp.zeros((4, 4)), lambda p: p - target, 100)
    return bool(jnp.linalg.norm(end - target) < 0.5 * jnp.linalg.norm(target))


def bowl(p):
    """Rosenbrock's function; 0 at (1, 1)."""
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def free_of_schedules():
    """Prodigy, schedule-free SGD and SAM, as Optax has them."""
    free = optax.contrib.schedule_free_sgd(0.2, b1=0.9)
    return optax.contrib.prodigy(1.0), free, optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=2)


def behind_a_clip(tx):
    """A transformation of Optax's as a link of a chain of gradx."""
    return gx.chain(gx.clip_by_global_norm(100.0), tx)


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

        def norms(tx, scale):
            grads = {name: scale * jnp.arange(1.0, 9.0) for name in params}
            return [jnp.linalg.norm(u) for u in jax.tree.leaves(tx.update(grads, tx.init(params), params)[0])]

        found = []
        for tx in (self.m.lars(0.1), self.m.lamb(0.1)):
            (large, small), (large_again, _) = norms(tx, 1.0), norms(tx, 100.0)
            found += [jnp.allclose(large, 10 * small, rtol=1e-3), jnp.allclose(large, large_again, rtol=1e-3)]
        return all(found)

    def muon(self):
        return falls(optax.contrib.muon(0.05))

    def schedule_free(self):
        return all(map(falls, free_of_schedules()))

    def shampoo(self):
        return self.has("shampoo", "soap")

    def losses(self):
        """Of two classes with the same logits: log 2."""
        return bool(jnp.allclose(optax.softmax_cross_entropy(jnp.zeros(2), jnp.array([1.0, 0.0])), jnp.log(2.0)))

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
        ends = [path(tx, jnp.zeros(2), lambda p: p - 3.0, 3)[0] for tx in orders]
        return bool(jnp.all(ends[0] < ends[1] - 0.01) or jnp.all(ends[0] > ends[1] + 0.01))

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
        state = tx.init(params)
        return aval(tx.update(jnp.ones(4), state, params)[1]) == aval(state)

    def second_moment(self):
        """Under a constant gradient a step has the length of the learning rate."""
        params = jnp.zeros(4, jnp.bfloat16)
        _, last = path(self.m.adamw(0.125, weight_decay=0.0), params, jnp.ones_like, 3000)
        return bool(jnp.all(abs(-last.astype(jnp.float32) / 0.125 - 1) < 0.05))

    def moved(self, tx):
        """Do 100 steps of 1e-4 lead from 1 to 0.99?"""
        end, _ = path(tx, jnp.ones(4096, jnp.bfloat16), lambda p: jnp.full_like(p, 1e-4), 100)
        return bool(abs(jnp.mean(end.astype(jnp.float32)) - 0.99) < 3e-3)  # bf16 has 1/256 there

    def one_cycle(self):
        return self.has("one_cycle_schedule") and self.has("cyclic_with_momentum")

    def searching(self):
        return self.has("range_test", "lr_find") and self.has("early_stop")


class Gradx(Jax):
    m = gx

    def muon(self):
        return "Optax's" if falls(behind_a_clip(optax.contrib.muon(0.05))) and not self.has("muon") else False

    def schedule_free(self):
        return "Optax's" if all(falls(behind_a_clip(tx)) for tx in free_of_schedules()) else False

    def losses(self):
        return "Optax's" if super().losses() and not self.has("entropy") else False

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
        return all(self.moved(gx.chain(gx.sgd(1.0), link)) for link in (gx.stochastic_rounding(0), gx.kahan()))

    def eight_bits(self):
        return gx.summarize(gx.store(gx.adamw(1e-3), gx.Blockwise(), seed=0), MATRIX).bytes_per_parameter < 2.1

    def weighted(self):
        """Gradients 1 and 4 of 3 tokens and 1: the mean is 1.75."""
        params, tx = jnp.zeros(2), gx.accumulate(gx.sgd(1.0), 2, weight="num_tokens")
        state = tx.init(params)
        for g, tokens in ((1.0, 3), (4.0, 1)):
            updates, state = tx.update(jnp.full(2, g), state, params, num_tokens=tokens)
        return bool(jnp.allclose(updates, -1.75))

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
        steps = jnp.arange(100)
        rates, momenta = jax.vmap(rate)(steps), jax.vmap(momentum)(steps)
        return bool(jnp.argmax(rates) == jnp.argmin(momenta) and momenta.max() > momenta.min())

    def searching(self):
        start = jnp.ones(2)
        found = gx.lr_range_test(lambda p, batch: jnp.sum((p - batch) ** 2), gx.sgd(1e-3), start, jnp.zeros((8, 2)))
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
            updates, state = tx.update(-jnp.ones(()), state, params)
            params = gx.apply_updates(params, updates)
        return bool(gx.eval_params(state, params) == 2.0)

    def zero(self):
        """Each of the devices has its part of both moments."""
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        whole, tx = NamedSharding(mesh, PartitionSpec()), gx.adamw(1e-3)
        state = jax.jit(tx.init, out_shardings=gx.state_sharding(tx, MATRIX, whole, zero_axis="data"))(
            jax.device_put(jnp.zeros(MATRIX.shape), whole)
        )
        parts = [x.addressable_shards[0].data.size * jax.device_count() for x in jax.tree.leaves(state) if x.ndim]
        return parts == [MATRIX.size] * 2

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


class Optax(Jax):
    m = optax

    def optimizers(self):
        """Public functions with a learning rate that are not links."""
        links = ("scale", "inject", "_")
        made = {n: getattr(m, n) for m in (optax, optax.contrib) for n in dir(m) if not n.startswith(links)}
        rated = lambda f: any("learning_rate" in name for name in inspect.signature(f).parameters)
        return sum(callable(f) and rated(f) for name, f in made.items() if name[0].islower())

    def lbfgs(self):
        tx, p = optax.lbfgs(), jnp.array([-1.2, 1.0])
        graded = optax.value_and_grad_from_state(bowl)

        def step(carry, _):
            p, state = carry
            value, grad = graded(p, state=state)
            updates, state = tx.update(grad, state, p, value=value, grad=grad, value_fn=bowl)
            return (p + updates, state), None

        (p, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=60))(p)
        return bool(jnp.allclose(p, 1.0, atol=1e-2))

    def rule(self):
        tx = optax.stateless_with_tree_map(lambda g, p: jnp.sign(g))
        updates, _ = tx.update({"a": jnp.array(-2.0)}, tx.init(None))
        return "without state" if updates["a"] == -1.0 and not self.has("leafwise") else False

    def small_steps(self):
        return self.moved(optax.sgd(1.0)) or self.has("stochastic_round", "kahan")

    def eight_bits(self):
        """There is a dtype for the first moment only, and what 8 bits lose there is lost."""
        return self.has("8bit", "quantiz", "blockwise")

    def weighted(self):
        params, tx = jnp.zeros(2), optax.MultiSteps(optax.sgd(1.0), 2)
        state = tx.init(params)
        for g, tokens in ((1.0, 3), (4.0, 1)):
            updates, state = tx.update(jnp.full(2, g), state, params, num_tokens=tokens)
        return bool(jnp.allclose(updates, -1.75))

    def skipping(self):
        return skips(optax.apply_if_finite(optax.adamw(1e-3), 5))

    def groups(self):
        grads = {"head": jnp.ones(2), "body": jnp.ones(2)}
        labels = {"head": "fast", "body": "slow"}
        tx = optax.multi_transform({"fast": optax.sgd(1.0), "slow": optax.sgd(0.1)}, labels)
        updates, _ = tx.update(grads, tx.init(grads), grads)
        return "by label" if (updates["head"][0], updates["body"][0]) == (-1.0, jnp.float32(-0.1)) else False

    def unused_group(self):
        try:
            optax.multi_transform({"a": optax.sgd(0.1), "b": optax.sgd(1.0)}, {"x": "a"}).init({"x": jnp.ones(2)})
        except ValueError:
            return True
        return False

    def averages(self):
        average = optax.incremental_update(jnp.array(1.0), jnp.array(0.0), 0.25)
        return "by hand" if average == 0.25 and not self.has("ema_params", "average_params") else False

    def zero(self):
        """With shardings that one makes for every leaf of the state."""
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        tx, params = optax.adamw(1e-3), jnp.zeros(MATRIX.shape)
        split = lambda x: NamedSharding(mesh, PartitionSpec("data") if x.ndim else PartitionSpec())
        state = jax.jit(tx.init, out_shardings=jax.tree.map(split, jax.eval_shape(tx.init, params)))(params)
        parts = [x.addressable_shards[0].data.size * jax.device_count() for x in jax.tree.leaves(state) if x.ndim]
        return "by hand" if parts == [MATRIX.size] * 2 and not self.has("sharding") else False

    def migration(self):
        params = jnp.ones(2)
        try:
            optax.amsgrad(1e-3).update(params, optax.adam(1e-3).init(params), params)
        except (AttributeError, ValueError):
            return self.has("migrat")
        return True

    def cost(self):
        return self.has("cost", "flops")


def skips(tx):
    """A gradient of NaN moves nothing, and the next step is as the first."""
    params = jnp.ones(2)
    first, _ = tx.update(params, tx.init(params), params)
    nothing, state = tx.update(params * jnp.nan, tx.init(params), params)
    then, _ = tx.update(params, state, params)
    return bool(not jnp.any(nothing) and jnp.array_equal(then, first))
