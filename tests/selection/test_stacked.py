"""Stacked layers are treated as the layers that they are: as those of the model that has them apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import gradx as gx
from tests.cases import CASES
from tests.problems import aval, grads

RULE = {"^layers/": 0, "^columns$": -2, "^grid$": (0, 2)}


def apart():
    """Layers of very different sizes: along the first axis, along another, and along two."""
    rng = np.random.default_rng(1)
    layer = lambda size, *shape: jnp.asarray(size * rng.normal(size=shape), jnp.float32)
    return {
        "layers": [{"kernel": layer(10.0**i, 4, 5), "bias": layer(0.1**i, 5)} for i in range(2)],
        "columns": [layer(10.0**i, 4, 3) for i in range(2)],
        "grid": [[layer(3.0**i, 3, 4), layer(5.0 + i, 3, 4)] for i in range(2)],
        "head": layer(1.0),
    }


def stack(tree):
    """The same model, with its layers in one array each."""
    return tree | {
        "layers": jax.tree.map(lambda *x: jnp.stack(x), *tree["layers"]),
        "columns": jnp.stack(tree["columns"], 1),
        "grid": jnp.stack([jnp.stack(row, 1) for row in tree["grid"]]),
    }


def after(tx, params, gs):
    """Parameters and state after some steps."""

    def step(carry, g):
        p, state = carry
        u, state = tx.update(g, state, p)
        return (gx.apply_updates(p, u), state), None

    gs = jax.tree.map(lambda *x: jnp.stack(x), *gs)
    return jax.jit(lambda p, gs: jax.lax.scan(step, (p, tx.init(p)), gs)[0])(params, gs)


def close(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


def is_as_apart(tx, **kwargs):
    gs = [grads(i, apart()) for i in range(5)]
    together, _ = after(gx.stacked(tx, RULE), stack(apart()), [stack(g) for g in gs])
    separate, _ = after(tx, apart(), gs)
    close(together, stack(separate), **kwargs)


# What is per array: ratios, masks by shape, factored and other reduced slots, norms, means.
TYPICAL = [
    lambda c: c.optimizer is gx.lamb and "trust_ratio_mask" in c.kwargs,
    lambda c: c.optimizer is gx.adafactor and "momentum" in c.kwargs,
    lambda c: c.optimizer is gx.sm3,
]
ROWS = [
    pytest.param(c, marks=[] if any(one(c) for one in TYPICAL) else pytest.mark.slow, id=str(c))
    for c in CASES
]


@pytest.mark.parametrize("case", ROWS)
def test_every_optimizer_is_that_of_the_layers_apart(case):
    is_as_apart(case.make())


AROUND = [
    gx.chain(gx.clip_by_block_rms(0.1), gx.scale_by_param_block_norm(), gx.scale_by_param_block_rms()),
    gx.chain(gx.clip_by_global_norm(1.0), gx.adaptive_grad_clip(0.01), gx.centralize(output_axis=-1)),
    gx.groups(gx.lamb(0.1), {"bias$": gx.frozen(), lambda path, x: x.ndim == 0: gx.lars(0.1)}),
    gx.partition(
        {0: gx.sgd(0.1), 1: gx.fromage(0.1), 2: gx.lamb(0.1)},
        lambda params: jax.tree.map(lambda p: min(p.ndim, 2), params),
    ),
    gx.masked(gx.lamb(0.1), {"layers": False, "columns": True, "grid": True, "head": True}),
    gx.packed(gx.chain(gx.clip_by_global_norm(1.0), gx.adafactor(0.1, min_dim_size_to_factor=2))),
    gx.skip_if(gx.accumulate(gx.lookahead(gx.sm3(0.1), 2), 2), gx.nonfinite()),
]


QUICK = [tx if "groups" in repr(tx) else pytest.param(tx, marks=pytest.mark.slow) for tx in AROUND]


@pytest.mark.parametrize("tx", QUICK, ids=repr)
def test_links_and_what_is_around_them(tx):
    is_as_apart(tx)


def test_each_layer_has_its_own_ratio():
    """Two layers of ratio 1 and 10; as one array, which is what Optax sees, both have 7.1."""
    params = {"layers": jnp.stack([jnp.ones((3, 4)), jnp.full((3, 4), 10.0)])}
    g = jax.tree.map(jnp.ones_like, params)
    for tx, expected in (
        (gx.stacked(gx.scale_by_trust_ratio(), {"layers": 0}), [1.0, 10.0]),
        (optax.scale_by_trust_ratio(), [7.1063, 7.1063]),
    ):
        u, _ = tx.update(g, tx.init(params), params)
        np.testing.assert_allclose(u["layers"][:, 0, 0], expected, rtol=1e-5)


def test_slots_have_the_layers_where_the_parameter_has_them_or_in_front():
    tx = gx.stacked(gx.scale_by_sm3(), {"": (0, 2)})
    state = jax.eval_shape(tx.init, jnp.ones((2, 3, 4, 5)))
    assert [x.shape for x in state.mu] == [(2, 4, 3), (2, 4, 5)]
    assert state.nu.shape == (2, 3, 4, 5)
    state = jax.eval_shape(gx.stacked(gx.scale_by_novograd(), {"": 1}).init, jnp.ones((4, 6, 3)))
    assert (state.mu.shape, state.nu.shape) == ((4, 6, 3), (6,))


def test_slots_start_where_the_parameter_is():
    mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put({"layers": jnp.ones((4, 6, 6))}, sharding)
    for tx in (gx.adamw(0.1), gx.rprop(0.1), gx.lookahead(gx.adafactor(0.1, momentum=0.9), 2)):
        slots = jax.tree.leaves(gx.stacked(tx, {"layers": 0}).init(params))
        assert {x.sharding for x in slots if x.shape == (4, 6, 6)} == {sharding}


def test_outside_of_jit_nothing_that_was_compiled_for_whole_arrays_is_used():
    p = {"layers": [jnp.stack([jnp.ones(3), jnp.full(3, 10.0)]) for _ in range(20)], "none": None}
    tx = gx.scale_by_trust_ratio()
    ratios = lambda tx: tx.update(p, tx.init(p), jax.tree.map(lambda x: x * x, p))[0]["layers"][3][:, 0]

    @gx.factory
    def untraceable(tx):
        def update(updates, state, params=None, **extra):
            float(jax.tree.leaves(updates)[0][0, 0])
            return tx.update(updates, state, params, **extra)

        return gx.GradientTransformation(tx.init, update)

    for _ in range(2):
        np.testing.assert_allclose(ratios(tx), ratios(untraceable(tx)), rtol=1e-6)
        np.testing.assert_allclose(
            ratios(gx.stacked(untraceable(tx), {"layers": 0})), [1.0, 100.0], rtol=1e-6
        )


def test_each_layer_reports_its_ratio():
    tx = gx.measured(gx.stacked(gx.scale_by_trust_ratio(), {"layers": 0, "grid": (0, 1)}), norms=())
    p = {
        "layers": jnp.arange(1.0, 7.0).reshape(3, 2),
        "grid": jnp.arange(4.0).reshape(2, 2),
        "head": jnp.ones(2),
    }
    state = tx.init(p)
    _, new = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, p), state, p)
    assert aval(new) == aval(state)
    ratios = {f"layers/{i}": np.linalg.norm([2 * i + 1, 2 * i + 2]) / 2**0.5 for i in range(3)}
    ratios |= {"head": 1.0, "grid/0/0": 1.0, "grid/0/1": 1.0, "grid/1/0": 2.0, "grid/1/1": 3.0}
    found = gx.metrics(new)
    assert found.keys() == gx.metrics(state).keys() == {f"trust_ratio/{path}" for path in ratios}
    for path, ratio in ratios.items():
        np.testing.assert_allclose(found[f"trust_ratio/{path}"], ratio, rtol=1e-6)


def test_a_stacked_vector_is_not_stored():
    """It is a vector still; a matrix is stored if the stack of them is large enough."""
    params = {"kernel": jnp.ones((4, 8, 8)), "bias": jnp.ones((4, 64))}
    tx = gx.stacked(gx.store(gx.trace(0.9), gx.Rounded(), min_size=256, seed=0), {"": 0})
    dtypes = {path: x.dtype for _, path, x in gx.slots(jax.eval_shape(tx.init, params), params)}
    assert dtypes == {"kernel": jnp.bfloat16, "bias": jnp.float32}


def test_explain_shows_what_is_masked_by_the_shape_of_a_layer():
    tx = gx.stacked(gx.chain(gx.add_decayed_weights(0.1, "matrices_only"), gx.scale(-0.1)), {"": 0})
    params = {"kernel": jnp.ones((3, 4, 5)), "bias": jnp.ones((3, 5))}
    rows = gx.explain(tx, params).rows
    assert [(r.parameter, r.link) for r in rows if r.shape == (3, 5)] == [
        ("bias", "stacked"),
        ("bias", "scale"),
    ]
    assert [r.link for r in rows if r.parameter == "kernel"] == ["stacked", "add_decayed_weights", "scale"]


def test_of_two_the_inner_one_counts():
    p, g = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.ones((2, 2))
    tx = gx.stacked(gx.stacked(gx.scale_by_param_block_norm(), {"": 1}), {"": 0})
    np.testing.assert_allclose(tx.update(g, tx.init(p), p)[0][0], [10**0.5, 20**0.5], rtol=1e-6)


def test_a_function_as_a_rule_and_axes_from_the_end():
    rule = lambda path, x: (-1, 0) if path == "grid" else None
    params = {"grid": jnp.arange(12.0).reshape(2, 3, 2), "none": None, "head": jnp.ones(3)}
    tx = gx.stacked(gx.scale_by_param_block_norm(), rule)
    u, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_allclose(u["grid"][:, 0], np.linalg.norm(params["grid"], axis=1), rtol=1e-6)


def test_one_rule_for_all_layers():
    """The program is as long as that for one array, but for the broadcasts, whatever the number of layers."""

    def length(tx, layers):
        x = {"w": jnp.ones((layers, 8, 8))}
        return len(str(jax.make_jaxpr(tx.update)(x, tx.init(x), x)).splitlines())

    tx = gx.lamb(0.1)
    layered = gx.stacked(tx, {"": 0})
    assert length(layered, 40) == length(layered, 2) <= length(tx, 40) + 5


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (
            {"^layer/": 0},
            ValueError,
            r"nothing matches '\^layer/'; the parameters are\n  head: \(\)\n  layers/bias",
        ),
        ({"layers": 0, "bias": 0}, ValueError, "stacked: two patterns match one parameter\n  layers/bias"),
        ({"layers": 2}, ValueError, r"at layers/bias has shape \(3, 5\), of which 2 is no axis"),
        (
            {"layers": (0, -3)},
            ValueError,
            r"at layers/bias has shape \(3, 5\), of which \(0, -3\) are not axes",
        ),
        ({"kernel": (0, -3)}, ValueError, r"shape \(3, 4, 5\), of which \(0, -3\) are not axes"),
        ({"head": 0}, ValueError, r"at head has shape \(\), of which 0 is no axis"),
        (lambda path, x: None, ValueError, "gives no axis for any parameter; the parameters are"),
        (lambda path, x: "0", TypeError, "for the parameter at head, axes must be an integer .* got '0'"),
    ],
)
def test_a_rule_that_does_not_fit(rule, error, message):
    params = {"layers": {"kernel": jnp.ones((3, 4, 5)), "bias": jnp.ones((3, 5))}, "head": jnp.ones(())}
    with pytest.raises(error, match=message):
        gx.stacked(gx.lamb(0.1), rule).init(params)


def test_mistakes_are_found_when_it_is_made():
    for axes in (True, 0.0, (), (0, "a"), None):
        with pytest.raises(
            TypeError, match="stacked: for 'layers', axes must be an integer or a tuple of them"
        ):
            gx.stacked(gx.lamb(0.1), {"layers": axes})
    with pytest.raises(TypeError, match="stacked: rule must be a dict, from patterns to axes, or a function"):
        gx.stacked(gx.lamb(0.1), "layers")
    with pytest.raises(TypeError, match="transformation of stacked is not a gradient transformation"):
        gx.stacked(gx.lamb, {"layers": 0})


def test_the_state_of_another_stack_is_refused():
    tx = gx.stacked(gx.novograd(0.1), {"": 0})
    other = gx.stacked(gx.novograd(0.1), {"": 1})
    p = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"nu has shape \(3,\), and should have \(2,\)"):
        tx.update(p, other.init(p), p)
