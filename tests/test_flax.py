"""Flax: Linen's TrainState, and NNX's Optimizer."""

import importlib
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx, serialization
from flax.training.train_state import TrainState

import gradx as gx
import gradx.flax as gx_flax
from gradx.core.tree import slash_path
from tests.cases import FEW

pytestmark = pytest.mark.usefixtures("lenient")
each_case = pytest.mark.parametrize("case", FEW, ids=str)

X = jax.random.normal(jax.random.key(0), (16, 4))
Y = jnp.sin(X[:, :2])


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(linen.relu(linen.LayerNorm()(linen.Dense(8)(x))))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


@each_case
def test_linen_with_a_train_state(case):
    """Ten donated steps are those of a loop by hand."""
    model = Linen()
    params = model.init(jax.random.key(0), X)["params"]
    loss = lambda params: jnp.mean((model.apply({"params": params}, X) - Y) ** 2)
    tx = case.make()
    state = TrainState.create(apply_fn=model.apply, params=jax.tree.map(jnp.copy, params), tx=tx)
    step = jax.jit(lambda s: s.apply_gradients(grads=jax.grad(loss)(s.params)), donate_argnums=0)

    @jax.jit
    def step_by_hand(params, opt_state):
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return gx.apply_updates(params, updates), opt_state

    by_hand, opt_state = params, tx.init(params)
    for _ in range(10):
        state = step(state)
        by_hand, opt_state = step_by_hand(by_hand, opt_state)
    assert int(state.step) == 10
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2, atol=1e-3), state.params, by_hand)


@each_case
def test_two_equal_optimizers_in_train_states_trace_once(case):
    traced = []
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    @jax.jit
    def step(state):
        traced.append(1)
        return state.apply_gradients(grads=state.params)

    for _ in range(2):
        step(TrainState.create(apply_fn=None, params=params, tx=case.make()))
    assert len(traced) == 1


def test_optax_would_trace_twice():
    """The same with Optax, so that the test above is known to test something."""
    traced = []

    @jax.jit
    def step(state):
        traced.append(1)
        return state.apply_gradients(grads=state.params)

    for _ in range(2):
        step(TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=optax.adamw(1e-3)))
    assert len(traced) == 2


@each_case
def test_nnx_optimizer(case):
    """Ten steps through nnx.Optimizer are those of a loop by hand on the pure state."""
    model = Nnx(nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    pure = nnx.to_pure_dict(params)
    optimizer = nnx.Optimizer(model, case.make(), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(10)]

    def loss(pure):
        state = jax.tree.map(lambda x: x, params)
        nnx.replace_by_pure_dict(state, pure)
        return jnp.mean((nnx.merge(graph, state, rest)(X) - Y) ** 2)

    tx = case.make()

    @jax.jit
    def step_by_hand(pure, state):
        value, grads = jax.value_and_grad(loss)(pure)
        updates, state = tx.update(grads, state, pure)
        return value, gx.apply_updates(pure, updates), state

    state, by_hand = tx.init(pure), []
    for _ in range(10):
        value, pure, state = step_by_hand(pure, state)
        by_hand.append(float(value))
    np.testing.assert_allclose(losses, by_hand, rtol=1e-2, atol=1e-3)


def test_masks_by_name_find_flax_parameters():
    params = Linen().init(jax.random.key(0), X)["params"]
    for mask in (gx.matrices_only(params), gx.no_bias_or_norm(params)):
        flat = {jax.tree_util.keystr(path): m for path, m in jax.tree_util.tree_leaves_with_path(mask)}
        assert flat == {
            "['Dense_0']['kernel']": True,
            "['Dense_0']['bias']": False,
            "['Dense_1']['kernel']": True,
            "['Dense_1']['bias']": False,
            "['LayerNorm_0']['scale']": False,
            "['LayerNorm_0']['bias']": False,
        }


def test_masks_by_name_find_nnx_parameters():
    """There the last name on the path is `value`, whose owner counts."""
    params = nnx.state(Nnx(nnx.Rngs(0)), nnx.Param)
    for mask in (gx.matrices_only(params), gx.no_bias_or_norm(params)):
        kept = [jax.tree_util.keystr(path) for path, m in jax.tree_util.tree_leaves_with_path(mask) if m]
        assert kept == ["['first']['kernel'].value", "['last']['kernel'].value"]


PLATEAU = gx.inject_hyperparams(gx.sgd)(gx.reduce_on_plateau(0.5, factor=0.5, patience=0))


def test_a_train_state_passes_extra_arguments_on():
    """As the update by hand does; and under jit, donated."""
    params = {"w": jnp.ones(2)}
    state = gx_flax.TrainState.create(apply_fn=None, params=jax.tree.map(jnp.copy, params), tx=PLATEAU)
    take = lambda s, loss: s.apply_gradients(grads={"w": jnp.ones(2)}, extra={"value": loss}, apply_fn=len)
    step = jax.jit(take, donate_argnums=0)
    by_hand = PLATEAU.init(params)
    for loss in (3.0, 3.0, 2.0):
        state = step(state, loss)
        updates, by_hand = PLATEAU.update({"w": jnp.ones(2)}, by_hand, params, value=loss)
        params = gx.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, (state.params, state.opt_state), (params, by_hand))
    assert (int(state.step), state.apply_fn) == (3, len)
    assert state.tx is PLATEAU
    assert float(state.opt_state.hyperparams["learning_rate"]) == 0.25


def test_a_train_state_refuses_a_field_that_it_has_not():
    state = gx_flax.TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=gx.sgd(0.1))
    with pytest.raises(TypeError, match="value"):
        state.apply_gradients(grads={"w": jnp.ones(2)}, value=1.0)


def test_a_train_state_takes_a_transformation_without_extra_arguments():
    tx = optax.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s))
    state = gx_flax.TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=tx)
    state = state.apply_gradients(grads={"w": jnp.ones(2)}, extra={"value": 1.0})
    assert state.params["w"].tolist() == [2.0, 2.0]


def test_a_train_state_has_the_parameters_to_evaluate():
    params = {"w": jnp.zeros(1)}
    plain = gx_flax.TrainState.create(apply_fn=None, params=params, tx=gx.sgd(1.0))
    assert plain.eval_params is plain.params
    state = gx_flax.TrainState.create(
        apply_fn=None, params=params, tx=gx.chain(gx.sgd(1.0), gx.average_params())
    )
    for g in (-1.0, -2.0):
        state = state.apply_gradients(grads={"w": jnp.full(1, g)})
    assert (state.params["w"].tolist(), state.eval_params["w"].tolist()) == ([3.0], [2.0])


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.norm = nnx.Linear(4, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))


def trained(tx, steps=3):
    model = Normed(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.mean((m(X)[:, :2] - Y) ** 2))(model)
        optimizer.update(model, grads)

    seen = []
    for _ in range(steps):
        step(model, optimizer)
        seen.append(nnx.as_pure(nnx.state(model, nnx.Param)))
    return model, optimizer, seen


def test_a_model_to_evaluate_has_the_average_and_leaves_the_model_alone():
    model, optimizer, seen = trained(gx.chain(gx.adam(0.1), gx.average_params()))
    evaluated = gx_flax.eval_model(optimizer, model)
    mean = jax.tree.map(lambda *x: sum(x) / len(x), *seen)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, nnx.as_pure(nnx.state(evaluated, nnx.Param)), mean)
    jax.tree.map(np.testing.assert_array_equal, nnx.as_pure(nnx.state(model, nnx.Param)), seen[-1])
    np.testing.assert_array_equal(evaluated.norm.mean[...], model.norm.mean[...])
    evaluated(X)  # moves its own statistics, not those of the model in training
    assert not np.array_equal(evaluated.norm.mean[...], model.norm.mean[...])


def test_a_model_without_an_average_is_evaluated_as_it_is():
    model, optimizer, seen = trained(gx.adam(0.1), 1)
    evaluated = gx_flax.eval_model(optimizer, model)
    jax.tree.map(np.testing.assert_array_equal, nnx.as_pure(nnx.state(evaluated, nnx.Param)), seen[-1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linen().init(jax.random.key(0), X)["params"],
        lambda: nnx.state(Nnx(nnx.Rngs(0)), nnx.Param),
    ],
    ids=["linen", "nnx"],
)
def test_groups_go_by_the_names_of_layers(make):
    params = make()
    rules = {"^(Dense_0|first)/": gx.frozen(), "(Dense_1|last)/bias$|[nN]orm": dict(weight_decay=0.0)}
    tx = gx.groups(gx.chain(gx.add_decayed_weights(0.5), gx.scale(-1.0)), rules)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    moved = [slash_path(path) for path, u in jax.tree_util.tree_leaves_with_path(updates) if jnp.any(u != 0)]
    assert moved in (["Dense_1/kernel"], ["last/kernel"])


def test_the_metrics_of_an_optimizer_can_be_read():
    _, optimizer, _ = trained(gx.measured(gx.chain(gx.clip_by_global_norm(1e-6), gx.lamb(0.1))))
    found = gx.metrics(gx_flax.opt_state(optimizer))
    assert float(found["clip_rate"]) == 1
    assert {"trust_ratio/linear/kernel", "trust_ratio/norm/scale"} <= found.keys()


def test_slots_of_few_bits_are_found_after_a_step_of_nnx():
    """NNX makes a container of its own of each, which does not know its format."""
    model = nnx.Linear(64, 128, rngs=nnx.Rngs(0))
    tx = gx.store(gx.adamw(1e-2), gx.Blockwise(), seed=0)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    optimizer.update(model, grads)
    state = gx_flax.opt_state(optimizer, model)
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(tx.init, params))
    mu = gx.get_slot(state, params, "mu")["kernel"]
    np.testing.assert_allclose(mu, jnp.full((64, 128), 0.1), rtol=0.1)


@pytest.mark.parametrize("policy", ["8-bit", "bf16-stochastic"])
def test_flax_serializes_slots_of_few_bits(policy):
    params = {"w": jnp.ones((64, 128), jnp.bfloat16)}
    tx = gx.precision(gx.adamw(1e-2), policy)
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    trained = state.apply_gradients(grads={"w": jnp.full((64, 128), 0.1)})
    read = serialization.from_bytes(state, serialization.to_bytes(trained))
    assert jax.tree.structure(read) == jax.tree.structure(trained)
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(trained), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_without_flax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.delitem(sys.modules, "gradx.flax")
    with pytest.raises(ImportError, match=r"gradx.flax needs Flax: pip install 'gradx\[flax\]'"):
        importlib.import_module("gradx.flax")


def test_the_module_may_be_loaded_twice():
    """As notebooks reload it: Flax registers a type once, unless told to replace what it has."""
    runpy.run_path(gx_flax.__file__)


class Layer(linen.Module):
    @linen.compact
    def __call__(self, x):
        kernel = linen.with_partitioning(linen.initializers.lecun_normal(), (None, None))
        bias = linen.with_partitioning(linen.initializers.normal(0.1), (None,))
        return x + linen.tanh(linen.Dense(4, kernel_init=kernel, bias_init=bias, name="dense")(x))


class Scanned(linen.Module):
    @linen.compact
    def __call__(self, x):
        body = lambda layer, x, _: (layer(x), None)
        scan = linen.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={linen.PARTITION_NAME: "layers"},
        )
        return linen.Dense(2, name="head")(scan(Layer(name="layers"), x, None)[0])


class Separate(linen.Module):
    @linen.compact
    def __call__(self, x):
        for i in range(3):
            x = Layer(name=f"layer_{i}")(x)
        return linen.Dense(2, name="head")(x)


def separated(params):
    """The parameters of the model without a scan."""
    layers = {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(3)}
    return {"head": params["head"]} | layers


def test_lamb_on_a_scanned_model_is_lamb_on_its_layers():
    boxed = Scanned().init(jax.random.key(0), X)["params"]
    scales = jnp.array([1.0, 3.0, 10.0])
    boxed["layers"] = jax.tree.map(lambda x: x * scales.reshape(3, *[1] * (x.ndim - 1)), boxed["layers"])
    rule = gx_flax.stacked_axes(boxed, "layers")
    assert rule == {"^layers/dense/bias$": 0, "^layers/dense/kernel$": 0}
    lamb = gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(0.01, weight_decay=0.1, mask="matrices_only"))

    def trained(model, tx, params):
        loss = lambda params: jnp.mean((model.apply({"params": params}, X) - Y) ** 2)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (gx.apply_updates(params, updates), state), None

        return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=5)[0][0])(params)

    params = linen.meta.unbox(boxed)
    expected = trained(Separate(), lamb, separated(params))
    found = separated(linen.meta.unbox(trained(Scanned(), gx.stacked(lamb, rule), boxed)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), found, expected)
    jax.eval_shape(
        gx.stacked(lamb, rule).init, params
    )  # with their metadata or without: the paths are the same


def test_stacked_axes_of_nnx():
    kernel = nnx.with_partitioning(
        nnx.initializers.lecun_normal(), (None, ("model", "other")), eager_sharding=False
    )

    @nnx.split_rngs(splits=3)
    @nnx.vmap(out_axes=1, transform_metadata={nnx.PARTITION_NAME: "layers"})
    def layers(rngs):
        return nnx.Linear(4, 4, use_bias=False, kernel_init=kernel, rngs=rngs)

    model = nnx.Dict(layers=layers(nnx.Rngs(0)), head=nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
    rule = gx_flax.stacked_axes(nnx.state(model, nnx.Param), "layers")
    assert rule == {"^layers/kernel$": 1}
    optimizer = nnx.Optimizer(model, gx.stacked(gx.novograd(0.1), rule), wrt=nnx.Param)
    assert gx.get_slot(gx_flax.opt_state(optimizer), nnx.as_pure(nnx.state(model, nnx.Param)), "nu")[
        "layers"
    ]["kernel"].shape == (3,)
    before = model["layers"].kernel[...]
    optimizer.update(model, nnx.state(model, nnx.Param))
    moved = jnp.sqrt(jnp.sum((model["layers"].kernel[...] - before) ** 2, (0, 2)))
    np.testing.assert_allclose(moved, 0.1, rtol=1e-5)  # the first step of NovoGrad has the norm of the rate
    with pytest.raises(
        ValueError, match=r"no axis is named 'depth', and the names are \['layers', 'model', 'other'\]"
    ):
        gx_flax.stacked_axes(nnx.state(model, nnx.Param), "depth")


def test_stacked_axes_may_be_several():
    params = {"a.b": linen.LogicallyPartitioned(jnp.ones((2, 3, 4)), names=("layers", None, "layers"))}
    assert gx_flax.stacked_axes(params, "layers") == {r"^a\.b$": (0, 2)}
