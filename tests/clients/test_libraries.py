"""The libraries themselves, given an optimizer of Optax's or of its face: `make test-clients` installs them.

Brax 0.14.2 is left out: it calls `jax.device_put_replicated`, which JAX 0.10 has no more. `test_loops.py` has
programs in its manner.
"""

import functools
import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tests.clients.comparing import STEPS, client
from tests.clients.problem import X, Y, loss_of, params, trained

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def needs(name):
    """A program that is left out where the library is not installed; the library is its second argument."""

    def with_library(program):
        @functools.wraps(program)
        def run(optax):
            return program(optax, pytest.importorskip(name))

        return run

    return with_library


@client()
@needs("numpyro")
def test_numpyro(optax, numpyro):
    """SVI with a guide, by `svi.update` and by `svi.run`."""
    from numpyro import distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    def model(x, y):
        weights = numpyro.sample("weights", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ weights, 0.3), obs=y)

    tx = optax.chain(optax.clip(10.0), optax.adam(optax.exponential_decay(0.05, 10, 0.9)))
    traced = []

    def counted(updates, params=None):
        traced.append(1)
        return updates

    tx = optax.chain(tx, optax.stateless(counted))
    svi = SVI(model, AutoNormal(model), numpyro.optim.optax_to_numpyro(tx), Trace_ELBO(2))
    state, update, losses = svi.init(jax.random.key(0), X, Y[:, 0]), jax.jit(svi.update), []
    for _ in range(STEPS):
        state, loss = update(state, X, Y[:, 0])
        losses.append(loss)
    traces = len(traced)
    whole = SVI(model, AutoNormal(model), tx, Trace_ELBO()).run(
        jax.random.key(1), STEPS, X, Y[:, 0], progress_bar=False
    )
    return losses, (svi.get_params(state), whole.params, whole.losses, traces)


@client("update")
@needs("haiku")
def test_haiku(optax, haiku):
    """As in its examples: a train state as a tuple, and the average of the parameters."""
    network = haiku.without_apply_rng(
        haiku.transform(lambda x: haiku.Sequential([haiku.Linear(4), jnp.tanh, haiku.Linear(2)])(x))
    )
    biases = lambda p: haiku.data_structures.map(lambda module, name, _: name != "b", p)
    tx = optax.chain(optax.masked(optax.add_decayed_weights(1e-2), biases), optax.adamax(0.05))
    p = network.init(jax.random.key(0), X)

    @jax.jit
    def update(p, average, state):
        loss, grads = jax.value_and_grad(lambda p: optax.l2_loss(network.apply(p, X), Y).mean())(p)
        updates, state = tx.update(grads, state, p)
        p = optax.apply_updates(p, updates)
        return p, optax.incremental_update(p, average, step_size=0.1), state, loss

    average, state, losses = p, tx.init(p), []
    for _ in range(STEPS):
        p, average, state, loss = update(p, average, state)
        losses.append(loss)
    return losses, (p, average, state)


@pytest.mark.skipif(importlib.util.find_spec("netket") is None, reason="`make test-clients` installs NetKet")
def test_netket():
    """In a process of its own, because NetKet changes JAX's configuration when it is imported."""
    done = subprocess.run([sys.executable, "-m", "tests.clients.with_netket"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@client("step", rtol=1e-3)  # a difference that is near 0, of random draws
@needs("blackjax")
def test_blackjax(optax, blackjax):
    """Mean-field variational inference."""
    log_density = lambda p: -loss_of(p) - 0.01 * sum(jnp.sum(x**2) for x in jax.tree.leaves(p))
    method = blackjax.meanfield_vi(log_density, optax.adamw(0.05), num_samples=4)
    state, losses = method.init(params()), []

    @jax.jit
    def step(key, state):
        return method.step(key, state)

    for key in jax.random.split(jax.random.key(0), STEPS):
        state, info = step(key, state)
        losses.append(info.elbo)
    return losses, tuple(state)


@client()
@needs("jaxopt")
def test_jaxopt(optax, jaxopt):
    """Its solver around an optimizer: step by step, and at once."""
    solver = jaxopt.OptaxSolver(
        loss_of, optax.chain(optax.clip(1.0), optax.nadam(0.05)), maxiter=STEPS, tol=0.0
    )
    p = params()
    state, update, losses = solver.init_state(p), jax.jit(solver.update), []
    for _ in range(STEPS):
        p, state = update(p, state)
        losses.append(state.value)
    whole, _ = solver.run(params())
    return losses, (p, state.internal_state, whole)


@client("step")
@needs("distrax")
def test_distrax(optax, distrax):
    """A flow whose likelihood is maximised."""
    data = jnp.tanh(X[:, :1])

    def loss(p):
        flow = distrax.Chain([distrax.Tanh(), distrax.ScalarAffine(p["shift"], log_scale=p["scale"])])
        base = distrax.Normal(jnp.zeros(1), jnp.ones(1))
        return -distrax.Transformed(base, flow).log_prob(jnp.clip(data, -0.95, 0.95)).mean()

    return trained(optax, optax.yogi(0.1), {"shift": jnp.zeros(1), "scale": jnp.zeros(1)}, loss)


@client("_stateful_trainer_step")
@needs("penzai")
def test_penzai(optax, penzai):
    """Its stateful trainer, to which the optimizer is a static argument."""
    from penzai import pz
    from penzai.models import simple_mlp
    from penzai.toolshed import basic_training

    named = lambda x: pz.nx.wrap(jnp.asarray(x), "batch", "features")
    model = simple_mlp.MLP.from_config(
        name="mlp", init_base_rng=jax.random.key(0), feature_sizes=[3, 4, 2], activation_fn=jnp.tanh
    )

    def loss(model, state, rng, x, y):
        error = model(x) - y
        value = pz.nx.nmap(jnp.mean)((error * error).untag("batch", "features")).unwrap()
        return value, state, {"loss": value}

    trainer = basic_training.StatefulTrainer.build(
        jax.random.key(1), model, optax.adamw(0.05), loss, initial_loss_fn_state=None
    )
    losses = [trainer.step(x=named(X), y=named(Y))["loss"] for _ in range(STEPS)]
    _, left = pz.unbind_params(trainer.model, freeze=True)
    return losses, [x.value.data_array for x in left]
