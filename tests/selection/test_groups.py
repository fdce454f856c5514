"""Groups by path: patterns, overrides, frozen groups, layer-wise decay; how they nest; what they refuse."""

import dataclasses
import functools
import pickle
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from hypothesis import settings
from hypothesis import strategies as st

import gradx as gx
from gradx.core.reports import Report
from gradx.core.tree import slash_path
from tests.problems import aval, grads
from tests.selection import test_partition
from tests.selection.test_partition import close, refusal

P = {
    "backbone": {
        "dense_0": {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.ones(3)},
        "dense_1": {"kernel": jnp.linspace(1, 2, 9).reshape(3, 3), "bias": jnp.ones(3)},
    },
    "head": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)},
}
ADAMW = gx.adamw(0.1, weight_decay=0.1)


def run(tx, **kwargs):
    return test_partition.run(tx, P, **kwargs)


def program(tx):
    """What an update computes, to compare: no less than values and states, and sooner had."""
    return str(jax.make_jaxpr(tx.update)(P, jax.eval_shape(tx.init, P), P, value=1.0))


def is_vector(path, x):
    return x.ndim == 1


def labels(function):
    """The tree of labels that a function of the slash path makes."""
    return jax.tree_util.tree_map_with_path(lambda path, x: function(slash_path(path)), P)


@pytest.mark.parametrize(
    "pattern",
    ["bias$", re.compile("BIAS$", re.IGNORECASE), is_vector, lambda path, x: path.endswith("bias")],
    ids=["text", "compiled", "function", "lambda"],
)
def test_groups_are_a_partition_by_path(pattern):
    tx = gx.groups(ADAMW, {pattern: dict(weight_decay=0.0), "^head/kernel": gx.sgd(0.1)})
    name = next(name for name in tx.init(P).inner_states if name not in ("default", "^head/kernel"))
    transforms = {"default": ADAMW, name: gx.adamw(0.1, weight_decay=0.0), "^head/kernel": gx.sgd(0.1)}
    label = lambda path: name if "bias" in path else "^head/kernel" if "head" in path else "default"
    by_hand = gx.partition(transforms, labels(label))
    assert program(tx) == program(by_hand)
    assert aval(tx.init(P)) == aval(by_hand.init(P))


def test_the_state_is_named_by_the_patterns():
    tx = gx.groups(
        ADAMW,
        {
            "backbone.*bias": dict(),
            re.compile("^head/b"): dict(),
            lambda path, x: path == "head/kernel": dict(),
        },
    )
    state = tx.init(P)
    assert isinstance(state, gx.PartitionState)
    assert set(state.inner_states) == {"default", "backbone.*bias", "^head/b", "<lambda>"}
    tx = gx.groups(ADAMW, {is_vector: dict()})
    mu = tx.init(P).inner_states["is_vector"].inner_state[0].mu
    assert mu["head"]["kernel"] == gx.MaskedNode()
    assert mu["head"]["bias"].shape == (1,)


def test_rules_may_cover_everything():
    tx = gx.groups(gx.adam(0.1), {"": gx.sgd(0.1)})
    close(run(tx)[0], run(gx.sgd(0.1))[0])
    assert not jax.tree.leaves(tx.init(P).inner_states["default"].inner_state[0].mu)


def test_equality_is_by_rules():
    make = lambda: gx.groups(
        ADAMW, {"bias$": dict(weight_decay=0.0), is_vector: gx.frozen(), re.compile("w"): {}}
    )
    assert make() == make()
    assert hash(make()) == hash(make())
    assert pickle.loads(pickle.dumps(make())) == make()
    assert make() != gx.groups(
        ADAMW, {"bias$": dict(weight_decay=0.1), is_vector: gx.frozen(), re.compile("w"): {}}
    )
    assert repr(make()) == (
        "groups(adamw(0.1, weight_decay=0.1), {'bias$': {'weight_decay': 0.0}, is_vector: frozen(), "
        "re.compile('w'): {}})"
    )
    assert repr(gx.groups(optax.sgd(0.1), {"b": optax.adam(0.1)})) == "groups(chain(...), {'b': chain(...)})"


def test_frozen_gradients_can_be_kept_out_of_a_norm():
    frozen = {"^backbone/": gx.frozen()}
    clip = gx.clip_by_global_norm(1.0)
    tx = gx.chain(gx.groups(gx.identity(), frozen), clip, gx.groups(gx.scale(1.0), frozen))
    u, _ = tx.update(grads(0, P), tx.init(P), P)
    np.testing.assert_allclose(gx.global_norm(u["head"]), 1.0, rtol=1e-6)


def test_groups_may_be_all_alike():
    """Groups of nothing but the default are the default."""
    close(run(gx.groups(ADAMW, {"bias$": {}, "^head/k": {}}))[0], run(ADAMW)[0])


@settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), max_size=4))
def test_every_parameter_is_in_one_group(sets):
    """Whatever the patterns are; or they are refused."""
    p = {name: jnp.ones(()) for name in "abcdef"}
    patterns = dict.fromkeys(f"^({'|'.join(sorted(names))})$" for names in sets)
    tx = gx.groups(gx.sgd(0.1), dict.fromkeys(patterns, gx.frozen()))
    if any(len([q for q in patterns if re.search(q, name)]) > 1 for name in p):
        assert "two patterns match one parameter" in refusal(tx, p)
        return
    masks = [part.mask for part in tx.parts(p).values()]
    assert jax.tree.map(lambda *m: sum(m), *masks) == dict.fromkeys(p, 1)


# Frozen groups.


def test_frozen_parameters_stay_and_have_no_slots():
    tx = gx.groups(ADAMW, {"^backbone/": gx.frozen()})
    p, state = run(tx)
    jax.tree.map(np.testing.assert_array_equal, p["backbone"], P["backbone"])
    assert not jnp.array_equal(p["head"]["kernel"], P["head"]["kernel"])
    assert not jax.tree.leaves(state.inner_states["^backbone/"])
    bytes_of = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    assert bytes_of(state) == 2 * bytes_of(P["head"]) + 4  # and a count


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_frozen_updates_are_zeros_like_the_gradients(dtype):
    g = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, dtype), P)
    u, _ = gx.frozen().update(g, gx.frozen().init(P))
    assert aval(u) == aval(g)
    assert not any(jnp.any(x != 0) for x in jax.tree.leaves(u))


def test_a_frozen_leaf_costs_nothing():
    shapes = {name: jax.ShapeDtypeStruct((256, 256), jnp.bfloat16) for name in ("a", "b")}
    half = gx.cost(gx.groups(gx.adamw(0.1), {"a": gx.frozen()}), shapes, platform="cpu")
    alone = gx.cost(gx.adamw(0.1), {"b": shapes["b"]}, platform="cpu")
    assert half.moved_bytes <= alone.moved_bytes + 100
    assert half.state_bytes == alone.state_bytes
    assert half.temporary_bytes <= alone.temporary_bytes + 100


# Overrides.


BIASES = {"bias$": dict(learning_rate=gx.scaled(2.0))}
SCHEDULE = gx.linear_schedule(0.1, 0.0, 4)


def by_hand(default, biases):
    labels_ = labels(lambda path: "bias$" if "bias" in path else "default")
    return gx.partition({"default": default, "bias$": biases}, labels_)


@pytest.mark.parametrize(
    "make",
    [
        gx.adam,
        gx.inject_hyperparams(gx.adam),
        lambda rate: gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(rate)),
        lambda rate: gx.named_chain(("clip", gx.clip(1.0)), ("adam", gx.adam(rate))),
        lambda rate: gx.masked(gx.adam(rate), gx.matrices_only),
        lambda rate: gx.lookahead(gx.adam(rate), 2),
        lambda rate: gx.packed(gx.adam(rate)),
        lambda rate: gx.descend(gx.scale_by_adam(), rate),
        lambda rate: gx.partition({"all": gx.adam(rate)}, "all"),
        lambda rate: gx.groups(gx.adam(rate), {"kernel$": dict(b1=0.5), "head/bias": gx.frozen()}),
        lambda rate: gx.chain(optax.trace(0.9), gx.sgd(rate)),
    ],
    ids=[
        "adam",
        "injected",
        "chain",
        "named_chain",
        "masked",
        "lookahead",
        "packed",
        "descend",
        "partition",
        "groups",
        "beside a link of Optax's",
    ],
)
@pytest.mark.parametrize(
    ("once", "twice"),
    [
        (0.1, 0.2),
        (SCHEDULE, gx.product_schedule([gx.constant_schedule(2.0), SCHEDULE])),
    ],
    ids=["number", "schedule"],
)
def test_a_name_is_found_in_chains_and_wrappers(make, once, twice, lenient):
    assert program(gx.groups(make(once), BIASES)) == program(by_hand(make(once), make(twice)))


def test_a_factory_of_ones_own_is_known_by_its_arguments():
    @gx.factory
    def clipped(rate, *, bound=1.0):
        return gx.chain(gx.clip(bound), gx.sgd(rate))

    tx = gx.groups(clipped(0.1), {"bias$": dict(bound=0.5, rate=0.2)})
    assert program(tx) == program(by_hand(clipped(0.1), clipped(0.2, bound=0.5)))


def test_hyperparameters_that_need_each_other_change_together():
    adamw = functools.partial(gx.adamw, SCHEDULE, weight_decay=0.1)
    changes = dict(decay_mode="independent", max_learning_rate=0.1)
    for order in (changes, dict(reversed(changes.items()))):
        assert program(gx.groups(adamw(), {"bias$": order})) == program(by_hand(adamw(), adamw(**changes)))


def test_what_no_factory_made_can_have_groups_of_its_own():
    tx = gx.groups(optax.sgd(0.1), {"bias$": {}, "^head/kernel": gx.frozen()})
    u, _ = tx.update(jax.tree.map(jnp.ones_like, P), tx.init(P), P)
    np.testing.assert_allclose(u["head"]["bias"], -0.1, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@hypothesis.given(st.floats(0.0, 10.0), st.floats(0.0, 1.0), st.integers(0, 20))
def test_scaled_multiplies_numbers_and_schedules(factor, value, step):
    of = gx.scaled(factor).of
    np.testing.assert_allclose(of("it", value), factor * value)
    thaw = gx.linear_schedule(0.0, 1.0, 10)
    np.testing.assert_allclose(of("it", thaw)(step), factor * thaw(step), rtol=1e-6)
    np.testing.assert_allclose(gx.scaled(thaw).of("it", value)(step), value * thaw(step), rtol=1e-6)


def test_a_ratio_stays_where_the_whole_is_injected():
    make = lambda learning_rate: gx.groups(
        gx.sgd(learning_rate), {"^head/": dict(learning_rate=gx.scaled(0.5))}
    )
    tx = gx.inject_hyperparams(make)(0.1)
    state = gx.set_hyperparams(tx.init(P), learning_rate=0.2)
    u, _ = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, P), state, P)
    np.testing.assert_allclose(u["head"]["bias"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(u["backbone"]["dense_0"]["bias"], -0.2, rtol=1e-6)


def test_injected_groups_can_be_set():
    tx = gx.groups(gx.inject_hyperparams(gx.sgd)(0.1), BIASES)
    state = tx.init(P)
    rate = lambda state, name: float(state.inner_states[name].inner_state.hyperparams["learning_rate"])
    assert rate(state, "bias$") == pytest.approx(0.2)
    state = gx.set_hyperparams(state, learning_rate=0.3)
    assert rate(state, "bias$") == rate(state, "default") == pytest.approx(0.3)


# Layer-wise decay.

LAYERS = ["^backbone/dense_0/", "^backbone/dense_1/", "^head/"]


def number_of(path):
    return 2 if path.startswith("head/") else int(path.split("/")[1][-1])


@pytest.mark.parametrize(
    "make",
    [
        lambda tx: gx.layerwise_decay(tx, LAYERS, 0.5),
        lambda tx: gx.layerwise_decay(tx, tuple(map(re.compile, LAYERS)), 0.5),
        lambda tx: gx.layerwise_decay(tx, number_of, 0.5, num_layers=3),
    ],
    ids=["texts", "compiled", "function"],
)
def test_layerwise_decay(make):
    tx = make(gx.sgd(gx.linear_schedule(0.8, 0.0, 10)))
    state = tx.init(P)
    u, state = tx.update(jax.tree.map(jnp.ones_like, P), state, P)
    moved = [u["backbone"]["dense_0"]["bias"][0], u["backbone"]["dense_1"]["bias"][0], u["head"]["bias"][0]]
    np.testing.assert_allclose(moved, [-0.2, -0.4, -0.8], rtol=1e-6)


def test_what_is_in_no_layer_has_the_whole_rate():
    layers = {"head/kernel": 1, "head/bias": 0}
    for tx in (
        gx.layerwise_decay(gx.sgd(0.8), ["head/bias", "head/kernel"], 0.5),
        gx.layerwise_decay(gx.sgd(0.8), layers.get, 0.5, num_layers=2),
    ):
        u, _ = tx.update(jax.tree.map(jnp.ones_like, P), tx.init(P), P)
        np.testing.assert_allclose(u["head"]["bias"], -0.4)
        np.testing.assert_allclose(u["head"]["kernel"], -0.8)
        np.testing.assert_allclose(u["backbone"]["dense_0"]["kernel"], -0.8)


def test_layers_of_a_transformer_in_one_line():
    p = {name: {"kernel": jnp.ones((1, 1))} for name in ("embed", *(f"layer_{i}" for i in range(12)), "head")}
    tx = gx.layerwise_decay(gx.sgd(1.0), ["embed", *(f"layer_{i}/" for i in range(12)), "head"], 0.75)
    u, _ = tx.update(p, tx.init(p), p)
    got = [-u[name]["kernel"].item() for name in p]
    np.testing.assert_allclose(got, 0.75 ** np.arange(13, -1, -1), rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"two patterns match one parameter\n  layer_10/kernel: \['layer_1', 'la"
    ):
        gx.layerwise_decay(gx.sgd(1.0), ["embed", *(f"layer_{i}" for i in range(12)), "head"]).init(p)


# Nesting.


def test_groups_in_groups():
    """The inner patterns need to match in one of the outer groups only."""
    inner = gx.groups(gx.sgd(0.1), {"bias$": dict(learning_rate=0.2)})
    tx = gx.groups(inner, {"^head/": dict(learning_rate=1.0), "dense_0/kernel": gx.frozen()})
    u, _ = tx.update(jax.tree.map(jnp.ones_like, P), tx.init(P), P)
    got = {slash_path(path): -float(x.ravel()[0]) for path, x in jax.tree_util.tree_leaves_with_path(u)}
    assert got == pytest.approx(
        {
            "backbone/dense_0/bias": 0.2,
            "backbone/dense_0/kernel": 0.0,
            "backbone/dense_1/bias": 0.2,
            "backbone/dense_1/kernel": 0.1,
            "head/bias": 0.2,
            "head/kernel": 1.0,
        }
    )


GROUPS = gx.groups(ADAMW, {"bias$": dict(weight_decay=0.0), "^head/kernel": gx.frozen()})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: gx.chain(gx.clip(10.0), tx),
        lambda tx: gx.named_chain(("only", tx)),
        lambda tx: gx.masked(tx, True),
        lambda tx: gx.packed(tx),
        lambda tx: gx.lookahead(tx, 100),
        lambda tx: gx.groups(gx.frozen(), {"": tx}),
        lambda tx: gx.inject_hyperparams(
            lambda rate: gx.groups(ADAMW, GROUPS._call.bound.arguments["rules"])
        )(0.1),
        lambda tx: optax.chain(tx),
        lambda tx: optax.masked(tx, jax.tree.map(lambda x: True, P)),
    ],
    ids=[
        "chain",
        "named_chain",
        "masked",
        "packed",
        "lookahead",
        "groups",
        "inject",
        "optax",
        "optax masked",
    ],
)
def test_groups_in_a_wrapper_are_the_groups(wrap, lenient):
    close(run(wrap(GROUPS))[0], expected())


@functools.cache
def expected():
    return run(GROUPS)[0]


def test_wrappers_in_groups_see_their_part():
    """A norm inside a group is over the group."""
    tx = gx.groups(
        gx.clip_by_global_norm(1.0), {"^head/": gx.chain(gx.clip_by_global_norm(1.0), gx.scale(2.0))}
    )
    u, _ = tx.update(grads(0, P), tx.init(P), P)
    np.testing.assert_allclose(gx.global_norm(u["backbone"]), 1.0, rtol=1e-6)
    np.testing.assert_allclose(gx.global_norm(u["head"]), 2.0, rtol=1e-6)


def test_a_loss_reaches_the_group_that_needs_it():
    tx = gx.chain(gx.groups(gx.sgd(0.1), {"^head/": gx.polyak_sgd(1.0)}))
    p, _ = run(tx, steps=1, value=jnp.float32(0.5))
    alone = gx.polyak_sgd(1.0)
    u, _ = alone.update(grads(0, P)["head"], alone.init(P["head"]), P["head"], value=jnp.float32(0.5))
    close(p["head"], gx.apply_updates(P["head"], u))


def test_reports_carry_the_name_of_the_group():
    def reporting(value):
        def observe(updates, state, params=None, **extra):
            return updates, state, (Report("value", value),)

        blank = lambda params: (Report("value", 0.0),)
        return gx.GradientTransformation.of(lambda params: (), observe, blank)

    tx = gx.groups(reporting(1.0), {"bias$": reporting(2.0)})
    _, _, reports = tx.observe(P, tx.init(P), P)
    assert [r.name for r in reports] == ["groups/default/value", "groups/bias$/value"]
    assert [r.name for r in tx.blank(P)] == [r.name for r in reports]
    assert [r.value for r in reports] == [1.0, 2.0]


# Trees of others.


class Net(nnx.Module):
    def __init__(self, rngs):
        self.value = nnx.Linear(4, 8, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](self.value(x))


def test_nnx_parameters(lenient):
    model = Net(nnx.Rngs(0))
    paths = [slash_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))]
    assert set(paths) == {f"{layer}/{name}" for layer in ("value", "layers/0") for name in ("bias", "kernel")}
    tx = gx.groups(gx.adamw(0.1), {"^value/": gx.frozen(), "^layers/0/bias$": dict(weight_decay=0.0)})
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    explained = {row.parameter: row.link for row in gx.explain(tx, nnx.state(model, nnx.Param)).rows}
    assert explained == {path: "frozen" if path.startswith("value/") else "adamw" for path in paths}
    before = jnp.copy(model.value.kernel[...]), jnp.copy(model.layers[0].kernel[...])

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.mean(m(jnp.ones((2, 4))) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(2):
        step(model, optimizer)
    np.testing.assert_array_equal(model.value.kernel[...], before[0])
    assert not jnp.array_equal(model.layers[0].kernel[...], before[1])


def test_linen_parameters(lenient):
    model = linen.Sequential([linen.Dense(8), linen.relu, linen.Dense(2)])
    p = model.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    p["boxed"] = linen.Partitioned(jnp.ones(2), ("axis",))
    tx = gx.groups(gx.sgd(0.1), {"layers_0/": gx.frozen(), "^boxed$": dict(learning_rate=0.2)})
    u, _ = tx.update(jax.tree.map(jnp.ones_like, p), tx.init(p), p)
    np.testing.assert_array_equal(u["layers_0"]["kernel"], 0.0)
    np.testing.assert_allclose(u["layers_2"]["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(u["boxed"].value, -0.2, rtol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    """A module as Equinox has them, filtered: what is not trained is None."""

    weight: jax.Array | None
    bias: jax.Array | None
    name: str = dataclasses.field(default="linear", metadata={"static": True})


def test_filtered_modules():
    p = [Linear(jnp.ones((2, 2)), None), Linear(None, jnp.ones(2)), Linear(jnp.ones(1), jnp.ones(1))]
    tx = gx.groups(gx.adam(0.1), {"^0/": gx.frozen(), "bias$": gx.scale(3.0), "^1/weight": gx.sgd(0.1)})
    state = tx.init(p)
    u, after = jax.jit(tx.update)(p, state, p)
    assert (u[0].bias, u[1].weight) == (None, None)
    np.testing.assert_array_equal(u[0].weight, 0.0)
    np.testing.assert_allclose(u[1].bias, 3.0)
    assert aval(after) == aval(state)


def test_a_key_named_value_is_a_name():
    p = {"attention": {"query": jnp.ones(1), "value": jnp.ones(1)}}
    tx = gx.groups(gx.sgd(0.1), {"attention/value$": gx.frozen()})
    u, _ = tx.update(p, tx.init(p), p)
    assert float(u["attention"]["value"][0]) == 0.0


# What is refused.


def test_a_pattern_that_matches_nothing():
    message = refusal(gx.groups(ADAMW, {"bais$": {}, "kernel$": {}}), P["head"])
    assert (
        message
        == "groups: nothing matches 'bais$'; the parameters are\n  bias: 'default'\n  kernel: 'kernel$'"
    )
    assert "nothing matches 'is_vector'" in refusal(gx.groups(ADAMW, {is_vector: {}}), P["head"]["kernel"])
    layers = gx.layerwise_decay(ADAMW, number_of, num_layers=4)
    assert "nothing matches 'layer_3'" in refusal(layers, P)


def test_two_patterns_that_match_one_parameter():
    message = refusal(gx.groups(ADAMW, {"bias$": {}, is_vector: {}}), P["head"])
    assert message == "groups: two patterns match one parameter\n  bias: ['bias$', 'is_vector']"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: gx.groups(gx.chain(gx.clip(1.0), gx.sgd(0.1)), {"b": dict(weight_decay=0.1)}),
            KeyError,
            r"groups, for 'b': no link of chain\(clip\(1.0\), sgd\(0.1\)\) has 'weight_decay'; there are "
            r"\['accumulator_dtype', 'learning_rate', 'max_delta', 'momentum', ",
        ),
        (
            lambda: gx.groups(gx.chain(gx.clip_by_global_norm(1.0), ADAMW), {"b": dict(eps=0.1)}),
            ValueError,
            r"groups, for 'b': 'eps' is an argument of clip_by_global_norm and of adamw: give a tr",
        ),
        (
            lambda: gx.groups(optax.sgd(0.1), {"b": dict(learning_rate=0.1)}),
            TypeError,
            r"groups, for 'b': chain\(...\) was not made by a factory of gradx, so its hyperparam",
        ),
        (
            lambda: gx.groups(ADAMW, {"b": dict(mask=gx.scaled(2.0))}),
            TypeError,
            r"the mask of adamw is None, and only a number or a function of the step can be scaled",
        ),
        (
            lambda: gx.groups(
                gx.inject_hyperparams(gx.sgd)(gx.reduce_on_plateau(0.1)),
                {"b": dict(learning_rate=gx.scaled(2))},
            ),
            TypeError,
            r"the learning_rate of inject_hyperparams\(sgd\) is reduce_on_plateau\(0.1\), and only a number",
        ),
        (
            lambda: gx.groups(ADAMW, {"b": dict(learning_rate=-1.0)}),
            ValueError,
            "learning_rate must be at least 0",
        ),
        (lambda: gx.groups(gx.adam, {}), TypeError, "the default of groups is not a gradient transformation"),
        (
            lambda: gx.groups(ADAMW, {"b": gx.frozen}),
            TypeError,
            "the transformation of groups for 'b' is not a gradient transformation",
        ),
        (
            lambda: gx.groups(ADAMW, [("b", gx.frozen())]),
            TypeError,
            r"rules must be a dict, .*got \[\('b', frozen",
        ),
        (
            lambda: gx.groups(ADAMW, {"(b": {}}),
            ValueError,
            r"groups: '\(b' is not a regular expression: missing \)",
        ),
        (
            lambda: gx.groups(ADAMW, {1: {}}),
            TypeError,
            r"a pattern is a regular expression or a function .*got 1",
        ),
        (lambda: gx.groups(ADAMW, {"default": {}}), ValueError, "two groups are named 'default'"),
        (lambda: gx.groups(ADAMW, {"b": {}, re.compile("b"): {}}), ValueError, "two groups are named 'b'"),
        (
            lambda: gx.groups(ADAMW, {lambda path, x: x.size: {}}).init(P),
            TypeError,
            "groups: <lambda> must give True or False, and gave 3 for 'backbone/dense_0/bias'",
        ),
        (lambda: gx.scaled("0.1"), TypeError, "scaled: factor must be a number"),
        (lambda: gx.scaled(float("nan")), ValueError, "scaled: factor must be a number, not NaN"),
        (
            lambda: gx.layerwise_decay(ADAMW, number_of),
            TypeError,
            "layers is a function: give num_layers too",
        ),
        (
            lambda: gx.layerwise_decay(ADAMW, number_of, num_layers=0),
            ValueError,
            "num_layers must be an integer of",
        ),
        (
            lambda: gx.layerwise_decay(ADAMW, "layer_"),
            TypeError,
            "layers must be a list of patterns, or a function",
        ),
        (
            lambda: gx.layerwise_decay(ADAMW, ["a"], num_layers=1),
            TypeError,
            "layers must be a list of patterns",
        ),
        (
            lambda: gx.layerwise_decay(ADAMW, ["a", "b", "a"]),
            ValueError,
            r"a pattern occurs twice in \['a', 'b', ",
        ),
        (
            lambda: gx.layerwise_decay(ADAMW, ["a"], 1.5),
            ValueError,
            "layerwise_decay: decay must be between 0 and 1",
        ),
        (
            lambda: gx.layerwise_decay(ADAMW, number_of, num_layers=2).init(P),
            ValueError,
            "number_of must give the number of a layer, below 2, or None, and gave 2 for 'head/bias'",
        ),
        (
            lambda: gx.layerwise_decay(gx.scale(0.1), ["a"]),
            KeyError,
            "no link of scale.* has 'learning_rate'",
        ),
    ],
)
def test_mistakes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
