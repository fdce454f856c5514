"""`eval_params`: wherever the average is, and the parameters where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import gradx as gx
from tests.problems import grads, params

P = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3), "none": None}
AVERAGED = gx.chain(gx.sgd(0.1), gx.average_params())


def run(tx, p=P, steps=5):
    """The last state and the parameters after each step."""
    state, seen = tx.init(p), []
    update = jax.jit(tx.update)
    for i in range(steps):
        u, state = update(grads(i, p), state, p)
        p = gx.apply_updates(p, u)
        seen.append(p)
    return state, seen


def mean(seen):
    return jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), axis=0), *seen)


def close(a, b, rtol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


@pytest.mark.parametrize(
    "tx",
    [
        AVERAGED,
        gx.chain(gx.clip(1.0), gx.chain(AVERAGED)),
        gx.named_chain(("clip", gx.clip(1.0)), ("sgd", AVERAGED)),
        gx.inject_hyperparams(lambda learning_rate: gx.chain(gx.sgd(learning_rate), gx.average_params()))(
            0.1
        ),
        gx.chain(gx.inject_hyperparams(gx.sgd)(0.1), gx.inject_hyperparams(gx.average_params)()),
        optax.apply_if_finite(AVERAGED, 3),
        optax.MultiSteps(AVERAGED, 1),
        optax.chain(optax.sgd(0.1), gx.average_params()),
        optax.with_extra_args_support(AVERAGED),
        gx.masked(AVERAGED, {"w": True, "b": True, "none": False}),
        gx.packed(AVERAGED, max_size=2),
    ],
    ids=lambda tx: repr(tx) if isinstance(tx, gx.GradientTransformation) else type(tx).__name__,
)
def test_an_average_is_found(tx, lenient):
    state, seen = run(tx)
    close(gx.eval_params(state, seen[-1]), mean(seen))
    close(jax.jit(gx.eval_params)(state, seen[-1]), mean(seen))


@pytest.mark.parametrize("tx", [gx.adamw(0.1), gx.chain(), gx.packed(gx.adam(0.1)), optax.lamb(0.1)])
def test_without_an_average_it_is_the_same_tree(tx):
    assert gx.eval_params(tx.init(P), P) is P


@pytest.mark.parametrize("make", [gx.masked, lambda tx, mask: optax.masked(tx, mask)])
def test_what_is_masked_out_stands_for_itself(make, lenient):
    state, seen = run(make(AVERAGED, {"w": True, "b": False, "none": False}))
    found = gx.eval_params(state, seen[-1])
    close(found["w"], mean(seen)["w"])
    assert found["b"] is seen[-1]["b"]
    assert found["none"] is None


def test_a_subtree_that_a_mask_cuts_off_stands_for_itself(lenient):
    p = {"a": {"w": jnp.ones(2), "b": jnp.ones(2)}, "ab": jnp.ones(2)}
    state, seen = run(optax.masked(AVERAGED, {"a": False, "ab": True}), p)
    found = gx.eval_params(state, seen[-1])
    assert found["a"] == seen[-1]["a"]
    close(found["ab"], mean(seen)["ab"])
    with pytest.raises(
        ValueError, match=r"\['abc'\] is in the parameters, but not in the average at \.inner_state"
    ):
        gx.eval_params(state, seen[-1] | {"abc": jnp.ones(2)})


def test_each_group_has_its_own(lenient):
    """Those of two groups are not two of one parameter; one of Optax's sees the holes of the others."""
    free = optax.contrib.schedule_free_sgd(0.1)
    groups = {"averaged": AVERAGED, "free": free, "plain": gx.sgd(0.1)}
    p = P | {"c": jnp.ones(2)}
    state, seen = run(
        optax.partition(groups, {"w": "averaged", "b": "free", "c": "plain", "none": "plain"}), p
    )
    found = gx.eval_params(state, seen[-1])
    close(found["w"], mean(seen)["w"])
    inner = state.inner_states["free"].inner_state
    y, z = seen[-1]["b"], inner.z["b"]
    close(found["b"], (y - (1 - inner.b1) * z) / inner.b1)
    assert found["c"] is seen[-1]["c"]


def test_that_of_asgd_is_found():
    state, seen = run(gx.asgd(0.1, t0=1))
    close(gx.eval_params(state, seen[-1]), mean(seen[2:]))


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: gx.chain(gx.clip(1.0), tx)])
def test_schedule_free_is_that_of_optax(wrap, lenient):
    state, seen = run(wrap(optax.contrib.schedule_free_adamw(0.1)), params())
    is_free = lambda x: isinstance(x, optax.contrib.ScheduleFreeState)
    free = next(x for x in jax.tree.leaves(state, is_leaf=is_free) if is_free(x))
    found = gx.eval_params(state, seen[-1])
    close(found, optax.contrib.schedule_free_eval_params(free, seen[-1]))
    assert not np.allclose(found["w"], seen[-1]["w"])


def test_slow_parameters_are_found():
    state, seen = run(gx.chain(gx.clip(1.0), gx.lookahead(gx.adam(0.1), 3)))
    close(gx.eval_params(state, seen[-1]), state[1].slow_params)
    assert not np.allclose(seen[-1]["w"], state[1].slow_params["w"])


def test_it_comes_in_the_dtypes_of_the_parameters():
    p = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)}
    state, seen = run(AVERAGED, p)
    assert jax.tree.map(lambda x: x.dtype, gx.eval_params(state, seen[-1])) == {
        "w": jnp.bfloat16,
        "b": jnp.float32,
    }


TWO = gx.chain(gx.lookahead(gx.sgd(0.1), 2), gx.named_chain(("ema", gx.ema_params(0.9))))


def test_of_two_one_is_picked():
    state, seen = run(TWO)
    with pytest.raises(
        ValueError,
        match=r"the parameter at \['b'\] has two averages: pick one with which=\"\[1\]\['ema'\]\S*\", or a "
        r"part of it that no other has; the state has \[0\].slow_params, \[1\]\['ema'\]",
    ):
        gx.eval_params(state, seen[-1])
    slow = gx.eval_params(state, seen[-1], which="slow")
    close(slow, state[0].slow_params)
    for which in ("[1]", "ema"):
        close(gx.eval_params(state, seen[-1], which=which), gx.eval_params(state[1], seen[-1]))
    with pytest.raises(ValueError, match=r"no average is at a path with 'tail' in it; the state has \[0\]"):
        gx.eval_params(state, seen[-1], which="tail")
    with pytest.raises(ValueError, match="no average is at a path with 'ema' in it; the state has none"):
        gx.eval_params(gx.sgd(0.1).init(P), P, which="ema")


def test_an_average_inside_of_lookahead_is_one_of_two():
    state, seen = run(gx.lookahead(AVERAGED, 2))
    with pytest.raises(
        ValueError, match=r"the state has \.slow_params, \.fast_state\[1\]\.inner_state\.average"
    ):
        gx.eval_params(state, seen[-1])


def test_a_packed_average_is_asked_for():
    tx = gx.chain(gx.packed(AVERAGED))
    p = {"a": jnp.ones(2), "b": jnp.ones(2)}
    state, seen = run(tx, p)
    with pytest.raises(
        ValueError,
        match=r"the average at \[0\]\.inner_state\[1\]\.inner_state\.average is packed into buffers; call "
        r"gradx\.unpack_state\(tx, state, params\) first, and give its result",
    ):
        gx.eval_params(state, seen[-1])
    unpacked = gx.unpack_state(gx.packed(AVERAGED), state[0], p)
    close(gx.eval_params(unpacked, seen[-1]), mean(seen))


def test_an_average_of_other_parameters_is_refused():
    state, _ = run(AVERAGED)
    with pytest.raises(ValueError, match=r"\['b'\] is in the average at \[1\]\S*, but not in the par"):
        gx.eval_params(state, {"w": P["w"], "none": None})
    with pytest.raises(
        ValueError, match=r"the parameter at \['b'\] has shape \(1, 3\), its average at \[1\]\S* \(3,\)"
    ):
        gx.eval_params(state, P | {"b": jnp.zeros((1, 3))})


X = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)


def test_linen_and_a_train_state(lenient):
    model = linen.Dense(3)
    variables = model.init(jax.random.key(0), X)["params"]
    state, seen = TrainState.create(apply_fn=model.apply, params=variables, tx=AVERAGED), []
    for _ in range(3):
        state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))
        seen.append(state.params)
    close(gx.eval_params(state.opt_state, state.params), mean(seen))


def test_nnx_and_its_optimizer(lenient):
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer, seen = nnx.Optimizer(model, AVERAGED, wrt=nnx.Param), []

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.sum(m(X) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(3):
        step(model, optimizer)
        seen.append(jax.tree.map(jnp.copy, nnx.state(model, nnx.Param)))
    found = gx.eval_params(optimizer.opt_state, nnx.state(model, nnx.Param))
    close(nnx.to_pure_dict(found), nnx.to_pure_dict(mean(seen)))
