"""Equinox: models are trees themselves, filtered, with None where there is nothing to train."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

X = jax.random.normal(jax.random.key(0), (32, 3))
Y = jnp.sin(X[:, 0])


def model():
    return eqx.nn.MLP(3, "scalar", width_size=8, depth=2, key=jax.random.key(1))


@eqx.filter_value_and_grad
def loss_and_grads(model):
    return jnp.mean((jax.vmap(model)(X) - Y) ** 2)


WHOLE = {
    "adamw": gx.adamw(1e-2, mask="no_bias_or_norm"),
    "groups": gx.groups(
        gx.adamw(1e-2), {"^layers/0/": gx.frozen(), "^layers/[12]/bias$": dict(weight_decay=0.0)}
    ),
    "accumulate": gx.accumulate(gx.adamw(1e-2), 2),
    "skip_if": gx.skip_if(gx.lamb(1e-2), gx.nonfinite()),
    "measured": gx.measured(gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(1e-2))),
    "ema": gx.chain(gx.adam(1e-2), gx.ema_params(0.9)),
    "lookahead": gx.lookahead(gx.adam(1e-2), 2),
    "packed": gx.packed(gx.adam(1e-2)),
}


SOME = {"groups", "skip_if", "measured", "packed"}  # the others are for `make test-all`


@pytest.mark.parametrize(
    "tx", [pytest.param(tx, id=k, marks=[] if k in SOME else pytest.mark.slow) for k, tx in WHOLE.items()]
)
def test_a_filtered_model_trains(tx, lenient):
    """The filtered tree as parameters, and the static rest untouched."""
    net = model()
    state = tx.init(eqx.filter(net, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(net, state):
        loss, grads = loss_and_grads(net)
        updates, state = tx.update(grads, state, eqx.filter(net, eqx.is_inexact_array))
        return eqx.apply_updates(net, updates), state, loss

    losses = []
    for _ in range(30):
        net, state, loss = step(net, state)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    assert net.activation is model().activation
    evaluated = (
        gx.eval_params(state, eqx.filter(net, eqx.is_inexact_array)) if tx is not WHOLE["packed"] else net
    )
    assert jax.tree.structure(eqx.filter(evaluated, eqx.is_inexact_array)) == jax.tree.structure(
        eqx.filter(net, eqx.is_inexact_array)
    )


def test_a_frozen_layer_stays(lenient):
    net, tx = model(), WHOLE["groups"]
    params = eqx.filter(net, eqx.is_inexact_array)
    _, grads = loss_and_grads(net)
    updates, _ = tx.update(grads, tx.init(params), params)
    after = gx.apply_updates(params, updates)
    np.testing.assert_array_equal(after.layers[0].weight, params.layers[0].weight)
    assert not np.array_equal(after.layers[1].weight, params.layers[1].weight)


def test_a_mask_can_be_a_model():
    """An Equinox module is callable, and as a mask it is a tree."""
    params = eqx.filter(model(), eqx.is_inexact_array)
    mask = jax.tree.map(lambda x: x.ndim == 2, params)
    tx = gx.masked(gx.scale(0.0), mask)
    updates, _ = tx.update(params, tx.init(params), params)
    assert not jnp.any(updates.layers[0].weight)
    np.testing.assert_array_equal(updates.layers[0].bias, params.layers[0].bias)


def test_names_are_those_of_the_layers():
    params = eqx.filter(model(), eqx.is_inexact_array)
    found = {path for _, path, _ in gx.slots(gx.adam(1e-3).init(params), params)}
    assert found == {f"layers/{i}/{name}" for i in range(3) for name in ("weight", "bias")}
