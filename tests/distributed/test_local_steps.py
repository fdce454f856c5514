"""Each device trains on its own in `jax.shard_map`: a fresh state has the type that it has after a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import gradx as gx
from gradx.core.tree import found_in
from gradx.numerics.device_axes import varying, varying_like
from tests import problems
from tests.test_contract import ALL


def mesh(shape=(2,), names=("d",)):
    return Mesh(np.array(jax.devices()[: np.prod(shape)]).reshape(shape), names)


def local(tx, params, xs, value=False):
    """The parameters of each device, stacked, after a step for each of its gradients `x * params`."""

    def on_device(params, xs):
        params = jax.lax.pcast(params, "d", to="varying")

        def step(carry, x):
            p, state = carry
            extra = {"value": x} if value else {}  # a loss of this device alone
            u, state = tx.update(jax.tree.map(lambda q: (q * x).astype(q.dtype), p), state, p, **extra)
            return (gx.apply_updates(p, u), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), xs)
        return jax.tree.map(lambda x: x[None], params)

    return jax.shard_map(on_device, mesh=mesh(), in_specs=(P(), P("d")), out_specs=P("d"))(params, xs)


@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.bfloat16])
def test_every_transformation_can_be_scanned(dtype, lenient):
    for tx in ALL:
        try:
            jax.eval_shape(lambda p, xs, tx=tx: local(tx, p, xs), problems.params(dtype), jnp.ones(4))
        except Exception as e:
            e.add_note(f"(of {tx!r})")
            raise


@pytest.mark.parametrize("tx", [gx.novograd(0.1), gx.lbfgs(0.1, linesearch=None), gx.zero_nans()], ids=repr)
def test_each_device_has_what_it_would_have_alone(tx):
    params, xs = {"w": jnp.linspace(1.0, 2.0, 3)}, jnp.arange(1.0, 7.0)
    both = jax.jit(lambda p, xs: local(tx, p, xs))(params, xs)
    for i, own in enumerate((xs[:3], xs[3:])):
        p, state = params, tx.init(params)
        for x in own:
            u, state = tx.update(jax.tree.map(lambda q, x=x: q * x, p), state, p)
            p = gx.apply_updates(p, u)
        np.testing.assert_allclose(both["w"][i], p["w"], rtol=1e-5)


def test_metrics_and_a_plateau_are_each_device_s_own():
    """Both keep numbers in the state that follow from what one device alone sees."""
    params, xs = {"w": jnp.linspace(1.0, 2.0, 3)}, jnp.arange(1.0, 7.0)
    plateau = gx.inject_hyperparams(gx.sgd)(gx.reduce_on_plateau(0.1, patience=1))
    for tx in (gx.measured(gx.adamw(0.1)), plateau):
        both = jax.jit(lambda p, xs, tx=tx: local(tx, p, xs, value=True))(params, xs)
        for i, own in enumerate((xs[:3], xs[3:])):
            p, state = params, tx.init(params)
            for x in own:
                u, state = tx.update(jax.tree.map(lambda q, x=x: q * x, p), state, p, value=x)
                p = gx.apply_updates(p, u)
            np.testing.assert_allclose(both["w"][i], p["w"], rtol=1e-5)


def test_a_slot_stays_as_it_was_where_gradients_vary_less():
    """Averaged gradients for parameters that are each device's own by their type."""
    tx = gx.chain(gx.average_gradients("d"), gx.novograd(0.1))

    def on_device(p):
        p = jax.lax.pcast(p, "d", to="varying")
        state = tx.init(p)
        _, after = tx.update(p, state, p)
        assert [varying(x) for x in jax.tree.leaves(after)] == [varying(x) for x in jax.tree.leaves(state)]
        return p

    jax.eval_shape(jax.shard_map(on_device, mesh=mesh(), in_specs=P(), out_specs=P("d")), jnp.ones(3))


@pytest.mark.parametrize(
    "tx",
    [
        gx.skip_if(gx.adam(0.1), gx.nonfinite(), gx.spike()),
        gx.apply_if_finite(gx.adam(0.1), 3),
        gx.dynamic_loss_scale(gx.adam(0.1)),
    ],
    ids=repr,
)
def test_each_device_skips_its_own_steps(tx):
    """So it does where it made the state from parameters of its own; a state of all devices stays theirs."""
    xs = jnp.array([1.0, 2.0, jnp.nan, 3.0])

    def run(p, xs, state):
        def step(carry, x):
            p, state = carry
            u, state = tx.update(p * x, state, p, value=x)
            return (gx.apply_updates(p, u), state), None

        return jax.lax.scan(step, (p, state), xs)[0]

    def on_device(p, xs, shared=False):
        own = jax.lax.pcast(p, "d", to="varying")
        p, state = run(own, xs, tx.init(p if shared else own))
        return p[None], found_in(state, optax.ScaleByAdamState)[0].count[None]

    specs = dict(mesh=mesh(), in_specs=(P(), P("d")), out_specs=P("d"))
    both, counts = jax.jit(jax.shard_map(on_device, **specs))(jnp.ones(3), xs)
    for i, own in enumerate((xs[:2], xs[2:])):
        alone, _ = run(jnp.ones(3), own, tx.init(jnp.ones(3)))
        np.testing.assert_allclose(both[i], alone, rtol=1e-6)
    assert counts.tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"along 'd' each device would decide .* all share one state"):
        jax.eval_shape(jax.shard_map(lambda p, xs: on_device(p, xs, True), **specs), jnp.ones(3), xs)


def test_devices_that_decide_together_share_the_counts():
    tx = gx.skip_if(gx.sgd(0.1), gx.nonfinite(), axis_name="d")

    def on_device(p, xs):
        p = jax.lax.pcast(p, "d", to="varying")

        def step(carry, x):
            p, state = carry
            u, state = tx.update(p * x, state, p)
            return (gx.apply_updates(p, u), state), None

        (p, state), _ = jax.lax.scan(step, (p, tx.init(p)), xs)
        return p[None], state.total  # of all devices by its type

    run = jax.shard_map(on_device, mesh=mesh(), in_specs=(P(), P("d")), out_specs=(P("d"), P()))
    params, total = jax.jit(run)(jnp.ones(3), jnp.array([1.0, 2.0, jnp.nan, 3.0]))
    np.testing.assert_allclose(params, np.outer([0.8, 0.7], np.ones(3)), rtol=1e-6)  # of the second x alone
    assert total == 1


def test_varying_like():
    def on_device(x, y):
        assert varying(varying_like(x, y)) == {"a", "b"}
        assert varying_like(y, x) is y
        assert varying_like(x) is x
        assert varying(varying_like(1 + jnp.zeros(()), jax.lax.psum(y, "b"), x)) == {"a"}
        return y

    specs = dict(in_specs=(P("a"), P("a", "b")), out_specs=P("a", "b"))
    jax.eval_shape(
        jax.shard_map(on_device, mesh=mesh((2, 2), ("a", "b")), **specs), jnp.ones(2), jnp.ones((2, 2))
    )
    x = jnp.ones(3)
    assert varying_like(x, np.ones(3)) is x
