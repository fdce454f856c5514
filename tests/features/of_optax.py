"""What Optax has, with its contrib."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.sharding import NamedSharding, PartitionSpec

from tests.features.shared import MATRIX, Jax, bowl, entropy, falls, in_parts, skips, without_a_schedule


class Optax(Jax):
    m = optax

    def optimizers(self):
        """Public functions with a learning rate that are not links."""
        links = ("scale", "inject", "_")
        made = {n: getattr(m, n) for m in (optax, optax.contrib) for n in dir(m) if not n.startswith(links)}
        rated = lambda f: any("learning_rate" in name for name in inspect.signature(f).parameters)
        return sum(callable(f) and rated(f) for name, f in made.items() if name[0].islower())

    def muon(self):
        return falls(optax.contrib.muon(0.05))

    def schedule_free(self):
        return all(map(falls, without_a_schedule()))

    def losses(self):
        return np.allclose(entropy(), np.log(2))

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
        """Bytes of the state for each parameter: the first moment alone may have 8 bits."""
        state = jax.eval_shape(optax.adamw(1e-3, mu_dtype=jnp.float8_e4m3fn).init, MATRIX)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / MATRIX.size < 2.2

    def weighted(self):
        """Gradients 1 and 4 of 3 tokens and 1: the mean is 1.75, if all tokens are known before."""

        def last(weigh):
            params, tx = jnp.zeros(2), optax.MultiSteps(optax.sgd(1.0), 2)
            state, update = tx.init(params), jax.jit(tx.update)
            for g, tokens in ((1.0, 3), (4.0, 1)):
                grads = np.full(2, g * weigh(tokens), np.float32)
                updates, state = update(grads, state, params, num_tokens=tokens)
            return np.allclose(updates, -1.75)

        return last(lambda tokens: 1.0) or ("by hand" if last(lambda tokens: 2 * tokens / 4) else False)

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
            tx = optax.multi_transform({"a": optax.sgd(0.1), "b": optax.sgd(1.0)}, {"x": "a"})
            tx.init({"x": jnp.ones(2)})
        except ValueError:
            return True
        return False

    def one_cycle(self):
        """The rate has its schedule; any number may follow one that a user writes."""
        rate, momentum = optax.cosine_onecycle_schedule(100, 1.0), lambda step: 0.95 - 0.1 * (step > 0)
        tx = optax.inject_hyperparams(optax.sgd)(rate, momentum=momentum)
        seen, state, update = [], tx.init(jnp.ones(2)), jax.jit(tx.update)
        for _ in range(2):
            _, state = update(np.ones(2, np.float32), state)
            seen.append(float(state.hyperparams["momentum"]))
        return "by hand" if np.allclose(seen, [0.95, 0.85]) and not self.has("momentum") else False

    def searching(self):
        return self.has("range_test", "lr_find") and self.has("early_stop")

    def averages(self):
        average = optax.incremental_update(jnp.array(1.0), jnp.array(0.0), 0.25)
        return "by hand" if average == 0.25 and not self.has("ema_params", "average_params") else False

    def zero(self):
        """With shardings that one makes for every leaf of the state."""
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        tx, params = optax.adamw(1e-3), jnp.zeros(MATRIX.shape)
        split = lambda x: NamedSharding(mesh, PartitionSpec("data") if x.ndim else PartitionSpec())
        state = jax.jit(tx.init, out_shardings=jax.tree.map(split, jax.eval_shape(tx.init, params)))(params)
        return "by hand" if in_parts(state) and not self.has("sharding") else False

    def migration(self):
        params = jnp.ones(2)
        try:
            optax.amsgrad(1e-3).update(params, optax.adam(1e-3).init(params), params)
        except (AttributeError, ValueError):
            return self.has("migrat")
        return True

    def cost(self):
        """JAX has it for any function: bytes, as XLA counts."""
        tx = optax.adamw(1e-3)
        args = (MATRIX, jax.eval_shape(tx.init, MATRIX), MATRIX)
        found = jax.jit(tx.update).lower(*args).compile().cost_analysis()
        return "by hand" if found["bytes accessed"] > 24 * MATRIX.size and not self.has("cost") else False
