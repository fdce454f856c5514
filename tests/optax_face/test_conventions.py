"""Where gradx's own names have other defaults, errors and warnings, `gradx.optax` has Optax's."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
import gradx.optax as face

pytestmark = pytest.mark.usefixtures("lenient")
BOTH = pytest.mark.parametrize("m", [optax, face], ids=["optax", "gradx.optax"])
P = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(0.25)}


def after(tx, p=P, steps=4):
    """The parameters after some steps down a bowl."""

    def step(carry, i):
        p, state = carry
        grads = jax.tree.map(lambda x: x + 0.1 * i, p)
        u, state = tx.update(grads, state, p)
        return (optax.apply_updates(p, u), state), None

    return jax.lax.scan(step, (p, tx.init(p)), jnp.arange(steps, dtype=jnp.float32))[0][0]


MAKE = {
    "adagrad": lambda m: m.adagrad(0.1),
    "adadelta": lambda m: m.chain(m.adadelta(), m.scale(-1.0)),
    "adadelta with a rate": lambda m: m.adadelta(0.5, rho=0.8, eps=1e-3, weight_decay=0.1),
    "scale_by_rss": lambda m: m.scale_by_rss(),
    "scale_by_rms": lambda m: m.scale_by_rms(eps=1e-2),
    "scale_by_stddev": lambda m: m.scale_by_stddev(eps=1e-2),
    "rmsprop": lambda m: m.rmsprop(0.1, eps=1e-2),
    "rmsprop with all": lambda m: m.rmsprop(0.1, 0.8, 1e-2, 0.5, True, True, 0.9, True, True),
    "rmsprop, eps outside": lambda m: m.rmsprop(0.1, 0.8, 1e-2, 0.5, False, momentum=0.5),
    "rprop": lambda m: m.rprop(0.1),
    "lion": lambda m: m.chain(m.scale_by_lion(0.8, 0.9, mode="smooth", smooth_beta=0.5), m.scale(-0.1)),
    "noise": lambda m: m.noisy_sgd(0.1, key=3),
    "add_noise": lambda m: m.add_noise(0.1, 0.5, key=jax.random.key(1)),
    "no rate": lambda m: m.chain(m.scale(-0.1), m.scale_by_learning_rate()),
    "a rate that ascends": lambda m: m.scale_by_learning_rate(0.1, flip_sign=False),
    "no warm-up": lambda m: m.sgd(m.warmup_constant_schedule(0.1, 1.0, 0)),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_the_numbers_are_those_of_optax(make):
    ours, theirs = jax.jit(lambda: [after(make(m)) for m in (face, optax)])()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), ours, theirs)


def test_gradx_s_own_names_give_others():
    for name in ("adagrad", "rmsprop"):
        own, other = after(getattr(gx, name)(0.1, eps=0.1)), after(getattr(face, name)(0.1, eps=0.1))
        assert not np.allclose(own["w"], other["w"], rtol=1e-4)


@BOTH
def test_a_label_that_no_parameter_has(m):
    tx = m.partition({"a": m.sgd(0.1), "b": m.adam(0.1)}, {"w": "a", "b": "a"})
    if m is optax:
        state = tx.init(P)
    else:
        with pytest.warns(UserWarning, match="no parameter has the label 'b'; the parameters are"):
            state = tx.init(P)
    assert set(state.inner_states) == {"a", "b"}
    u, _ = tx.update(P, state, P)
    np.testing.assert_allclose(u["w"], -0.1 * P["w"])


def test_a_warning_of_labels_is_said_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            face.multi_transform({0: face.sgd(0.1), 1: face.sgd(0.2)}, {"w": 0, "b": 0}).init(P)
    assert len(said) == 1


@BOTH
def test_a_label_without_a_transformation_is_an_error(m):
    with pytest.raises(ValueError, match="label"):
        m.partition({0: m.sgd(0.1)}, {"w": 0, "b": 1}).init(P)


@BOTH
def test_a_chain_of_nothing(m):
    with pytest.raises(ValueError, match="at least one" if m is face else "values"):
        m.chain().init(P)


@BOTH
def test_static_args_that_the_factory_has_not(m):
    with pytest.raises(ValueError, match="static_args"):
        m.inject_hyperparams(m.adam, static_args=("nothing",))


@BOTH
def test_noise_without_a_key(m):
    with pytest.warns(UserWarning, match="key"):
        tx = m.noisy_sgd(0.1)
    with pytest.warns(DeprecationWarning, match='"seed" is deprecated'):
        same = m.noisy_sgd(0.1, seed=0)
    jax.tree.map(np.testing.assert_array_equal, after(tx), after(same))
    is_old = pytest.warns(DeprecationWarning, match='"seed" is deprecated')
    with is_old, pytest.raises(ValueError, match="Only one of seed or key"):
        m.add_noise(0.1, 0.5, 1, seed=1)


@BOTH
def test_optimistic_adam_is_deprecated(m):
    with pytest.warns(DeprecationWarning, match="use `optimistic_adam_v2` instead"):
        m.optimistic_adam(0.1)


def test_lookahead_goes_by_pairs():
    pair = face.LookaheadParams.init_synced(P)
    ours, theirs = face.lookahead(face.adam(0.1), 2, 0.5), optax.lookahead(optax.adam(0.1), 2, 0.5)
    state = ours.init(pair)
    assert isinstance(state, face.LookaheadState)
    for _ in range(3):
        u, state = ours.update(pair.fast, state, pair)
        v, _ = theirs.update(pair.fast, theirs.init(pair), pair)
    assert jax.tree.structure(u) == jax.tree.structure(v)


def test_reduce_on_plateau_is_the_link_that_optax_has():
    tx = face.chain(face.sgd(0.1), face.contrib.reduce_on_plateau(patience=1, factor=0.5))
    state = tx.init(P)
    for value in (1.0, 1.0):
        u, state = tx.update(P, state, P, value=value)
    np.testing.assert_allclose(u["w"], -0.05 * P["w"])


def test_hyperparameters_take_a_dtype():
    tx = face.inject_hyperparams(face.sgd, hyperparam_dtype=jnp.bfloat16)(0.1)
    assert tx.init(P).hyperparams["learning_rate"].dtype == jnp.bfloat16
    assert face.inject_hyperparams(face.sgd)(0.1).init(P).hyperparams["learning_rate"].dtype == jnp.float32
