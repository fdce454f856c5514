"""Names that are easy to mix up: parents called like leaves or slots, prefixes, patterns within a name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

MATRIX = jnp.array([[1.0, 1.0], [10.0, 10.0]])
PARAMS = {
    "b": {"w": MATRIX, "bias": MATRIX},
    "count": MATRIX,
    "layer1": {"b": MATRIX, "mu": MATRIX, "w": MATRIX},
    "layer10": {"w": MATRIX},
    "mu": {"nu": {"count": MATRIX}, "trace": MATRIX},
    "state": {"params": MATRIX},
    "w": MATRIX,
    "w2": {"w": MATRIX},
}


def tree_of(function):
    """A tree like the parameters, of what a function makes of each path."""
    build = lambda node, path: (
        {k: build(x, f"{path}/{k}" if path else k) for k, x in node.items()}
        if isinstance(node, dict)
        else function(path)
    )
    return build(PARAMS, "")


PATHS = set(jax.tree.leaves(tree_of(lambda path: path)))
PATTERNS = {
    "layer1": {"layer1/b", "layer1/mu", "layer1/w", "layer10/w"},
    "^layer1/": {"layer1/b", "layer1/mu", "layer1/w"},
    "^layer1(?!0)": {"layer1/b", "layer1/mu", "layer1/w"},
    "^w$": {"w"},
    "^w": {"w", "w2/w"},
    "w$": {"b/w", "layer1/w", "layer10/w", "w", "w2/w"},
    "/w$": {"b/w", "layer1/w", "layer10/w", "w2/w"},
    "1/w": {"layer1/w"},
    "mu": {"layer1/mu", "mu/nu/count", "mu/trace"},
    "^mu/": {"mu/nu/count", "mu/trace"},
    "count$": {"count", "mu/nu/count"},
    "^(?!layer|mu)": {"b/w", "b/bias", "count", "state/params", "w", "w2/w"},
    re.compile("LAYER10/", re.IGNORECASE): {"layer10/w"},
    "ate/par": {"state/params"},
}


def changed(tree):
    """The paths where a tree is not 0."""
    return {path for path, x in paths_in(tree) if np.any(x)}


def paths_in(tree):
    names = jax.tree.leaves(tree_of(lambda path: path))
    return list(zip(names, jax.tree.leaves(tree), strict=True))


def found_by(pattern, params):
    """For each user of patterns, a tree that is not 0 where it found a parameter."""
    ones = jax.tree.map(jnp.ones_like, params)
    update = lambda tx: tx.update(ones, tx.init(params), params)[0]
    momentum = gx.sgd(1.0, momentum=0.5)
    full = jax.tree.map(jnp.ones_like, momentum.init(params))
    reset = gx.get_slot(gx.reset(momentum, full, params, pattern), params, "trace")
    layers = update(gx.stacked(gx.scale_by_trust_ratio(), {pattern: 0}))  # each with its own trust ratio
    return {
        "frozen": jax.tree.map(lambda u: 1 - u, update(gx.groups(gx.identity(), {pattern: gx.frozen()}))),
        "reset": jax.tree.map(lambda x: 1 - x, reset),
        "stacked": jax.tree.map(lambda u: u[1] - u[0], layers),
    }


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_pattern_is_searched_for_in_the_path(pattern, together):
    for user, tree in together(found_by, PARAMS, row="pattern").items():
        assert changed(tree) == PATTERNS[pattern], user


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_store_holds_the_slots_where_its_pattern_matches(pattern):
    tx = gx.store(gx.sgd(1.0, momentum=0.5), gx.Rounded("bfloat16"), where=pattern, min_size=1, seed=0)
    found = gx.slots(jax.eval_shape(tx.init, PARAMS), PARAMS)
    assert {path for _, path, x in found if x.dtype == jnp.bfloat16} == PATTERNS[pattern]
    assert {path for _, path, _ in found} == PATHS


def test_layers_that_begin_alike_have_their_own_rates():
    """Of `layer1` and `layer10`; the pattern `layer1` would match both, and is refused."""
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    layers = ["^layer1/", "^layer10/", "^w2?(/|$)"]
    tx = gx.layerwise_decay(gx.sgd(1.0), layers, 0.5)
    updates, _ = jax.jit(tx.update)(ones, tx.init(PARAMS), PARAMS)
    rates = {"layer1": 0.25, "layer10": 0.5}
    for path, u in paths_in(updates):
        np.testing.assert_array_equal(u, -rates.get(path.split("/")[0], 1.0))
    with pytest.raises(ValueError, match=r"two patterns match one parameter\n  layer10/w"):
        gx.layerwise_decay(gx.sgd(1.0), ["layer1", "layer10"], 0.5).init(PARAMS)


def test_a_parent_called_like_a_bias_is_no_bias():
    """Only the last name says that it is one, and the whole of it; `norm` may be anywhere in any name."""
    names = {
        "b": {"kernel": True, "b": False}, "bias": {"w": True, "bias2": True, "bias": False}, "B": False,
        "scale": {"w": True}, "offset1": True, "offset": False, "gamma": False, "beta": False, "beta_w": True,
        "layer_norm": {"w": False}, "norm": {"norm": False}, "RMSNorm_0": {"w": False}, "nor": {"m": True},
    }  # fmt: skip
    assert gx.no_bias_or_norm(jax.tree.map(lambda _: jnp.ones(2), names)) == names


def test_labels_that_begin_alike_are_other_labels():
    labels = tree_of(lambda path: {"layer1": "a", "layer10": "ab"}.get(path.split("/")[0], "b"))
    factors = {"a": 2.0, "ab": 3.0, "b": 5.0}
    tx = gx.partition({label: gx.scale(x) for label, x in factors.items()}, labels)
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS), PARAMS)
    for (_, u), label in zip(paths_in(updates), jax.tree.leaves(labels), strict=True):
        np.testing.assert_array_equal(u, factors[label])


def test_a_mask_of_parents_called_like_leaves():
    """A prefix of the tree; `w` and `w2` are two branches."""
    mask = {name: name in ("w", "layer10") for name in PARAMS}
    tx = gx.masked(gx.set_to_zero(), mask)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS), PARAMS)
    assert changed(updates) == PATHS - {"w", "layer10/w"}


def numbered():
    """Parameters, and a state of Adam behind two links of momentum, each array with a number of its own."""
    tx = gx.named_chain(("a", gx.trace(0.5)), ("ba", gx.trace(0.5)), ("mu", gx.scale_by_adam()))
    leaves, treedef = jax.tree.flatten((PARAMS, tx.init(PARAMS)))
    p, state = treedef.unflatten([jnp.full_like(x, i) for i, x in enumerate(leaves)])
    return tx, p, state


def test_slots_are_found_by_whole_names():
    """`a/trace` is not the end of `ba/trace`, nor is a parameter called `mu` the slot `mu`."""
    _, p, state = numbered()
    found = {name: gx.get_slot(state, p, name) for name in ("a/trace", "ba/trace", "mu", "nu")}
    inner = state["mu"]
    expected = {"a/trace": state["a"].trace, "ba/trace": state["ba"].trace, "mu": inner.mu, "nu": inner.nu}
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert gx.get_slot(state, p, "count") == inner.count
    with pytest.raises(ValueError, match=r"'trace' may be any of \['a/trace', 'ba/trace'\]"):
        gx.get_slot(state, p, "trace")
    with pytest.raises(KeyError, match="no slot is named 'race'"):
        gx.get_slot(state, p, "race")
    paths = [(name, path) for name, path, _ in gx.slots(state, p)]
    names = ["a/trace", "ba/trace", "mu", "nu"]
    assert sorted(paths) == sorted((name, path) for name in names for path in PATHS)


def test_a_checkpoint_keeps_each_array_under_its_name(tmp_path):
    """Parameters called like states, like the parts of a checkpoint, and like each other's beginnings."""
    tx, p, state = numbered()
    gx.save_checkpoint(tmp_path, 1, p, state, extra={"params": p["w"], "state": {"w": p["w2"]["w"]}})
    like = {"params": MATRIX, "state": {"w": MATRIX}}
    found = gx.restore_checkpoint(tmp_path, tx, PARAMS, extra=like)
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.state), (p, state))
    jax.tree.map(np.testing.assert_array_equal, found.extra, {"params": p["w"], "state": {"w": p["w2"]["w"]}})


def test_a_checkpoint_refuses_two_arrays_of_one_name(tmp_path):
    p = {"a/b": MATRIX, "a": {"b": MATRIX}}
    with pytest.raises(ValueError, match=r"these names stand for two arrays: \['params/a/b'\]"):
        gx.save_checkpoint(tmp_path, 1, p, ())


def test_migrate_moves_slots_of_parameters_called_like_slots():
    """Into groups whose patterns match in the middle; each array is still its parameter's."""
    old, p, state = numbered()
    link = gx.trace(0.5)
    traces = gx.named_chain(("a", link), ("ba", link), ("mu", gx.groups(gx.scale_by_adam(), {"mu": link})))
    found = gx.migrate(state, old, traces, p)
    after = found.state
    jax.tree.map(np.testing.assert_array_equal, (after["a"], after["ba"]), (state["a"], state["ba"]))
    adam = after["mu"].inner_states["default"].inner_state
    kept = dict(paths_in(state["mu"].mu))
    for path in PATHS - PATTERNS["mu"]:
        names = path.split("/")
        x = adam.mu
        for name in names:
            x = x[name]
        np.testing.assert_array_equal(x, kept[path])
    assert adam.count == state["mu"].count
    assert {(name, path) for name, path in found.new} == {("mu/mu/trace", path) for path in PATTERNS["mu"]}


def test_metrics_of_parameters_that_begin_alike():
    tx = gx.measured(gx.scale_by_trust_ratio(), norms=())
    g = jax.tree.unflatten(jax.tree.structure(PARAMS), [MATRIX / (i + 1) for i in range(len(PATHS))])
    _, state = jax.jit(tx.update)(g, tx.init(PARAMS), PARAMS)
    found = gx.metrics(state)
    expected = {f"trust_ratio/{path}": i + 1 for i, (path, _) in enumerate(paths_in(PARAMS))}
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), rtol=1e-6)


TORCH = {  # torch's names, in torch's order -> the path that each means
    "module.layer10.weight": "layer10/w", "module.w": "w", "module.w2.w": "w2/w",
    "module.layer1.w": "layer1/w",
    "module.layer1.b": "layer1/b", "module.layer1.mu": "layer1/mu", "module.count": "count",
    "module.b.w": "b/w", "module.b.bias": "b/bias", "module.mu.trace": "mu/trace",
    "module.mu.nu.count": "mu/nu/count", "module.state.params": "state/params",
}  # fmt: skip


def torch_state(names):
    arrays = {i: {"momentum_buffer": np.full((2, 2), float(i))} for i in range(len(names))}
    return {"state": arrays, "param_groups": [{"params": list(arrays), "param_names": list(names)}]}


def test_names_of_torch_are_matched_whole():
    """`module.layer10` is not below `layer1`, and `weight` may be left out at the end alone."""
    tx = gx.sgd(1.0, momentum=0.5)
    given = {"module.layer10.weight": "layer10/w"}  # the one that differs
    state = gx.import_torch_state(tx, PARAMS, torch_state(TORCH), paths=given)
    found = dict(paths_in(gx.get_slot(state, PARAMS, "trace")))
    for i, path in enumerate(TORCH.values()):
        np.testing.assert_array_equal(found[path], float(i), err_msg=path)


def test_a_layer_called_weight_and_a_wrapper_s_name_within():
    """Only the first names are a wrapper's, and only the last a layer's weights."""
    layers = {"module2": {"scale": MATRIX}, "module3": {"scale": MATRIX}, "w": MATRIX}
    params = layers | {"weight": {"w": MATRIX}, "enc": {"params": {"w": MATRIX}}}
    names = [f"module.{name}" for name in ("module2.weight", "module3.weight", "w", "weight.w")]
    names += ["module.params.enc.params.w"]
    tx = gx.sgd(1.0, momentum=0.5)
    trace = gx.get_slot(gx.import_torch_state(tx, params, torch_state(names)), params, "trace")
    found = trace["module2"]["scale"], trace["module3"]["scale"], trace["w"], trace["weight"]["w"]
    assert [float(x[0, 0]) for x in (*found, trace["enc"]["params"]["w"])] == [0.0, 1.0, 2.0, 3.0, 4.0]
    for wrong in ("module.enc.w", "module.params"):
        with pytest.raises(ValueError, match="match none of the parameters"):
            gx.import_torch_state(tx, params, torch_state([wrong, *names[:-1]]))
