"""`store`: what is stored and what is not, that it trains, what it keeps and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from gradx.codecs.stored import is_stored
from gradx.numerics.rounding import dither, salts
from gradx.states.entries import entries
from tests.cases import FIRST
from tests.low_precision.problem import FORMATS, MODEL, TARGET, loss, same, start, trained
from tests.problems import aval

ADAMW = gx.adamw(0.1)
MOMENTUM = gx.sgd(0.1, momentum=0.9)
EIGHT, HALF, NEAREST = gx.Blockwise(rounding="nearest"), gx.Rounded(), gx.Rounded(rounding="nearest")
NAMES = [
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "amsgrad",
    "lamb",
]
NAMES += ["lion", "nadam", "novograd", "radam", "rmsprop", "rprop", "sm3", "yogi"]
OPTAX = {name: getattr(optax, name)(0.1) for name in NAMES} | {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "MultiSteps": optax.MultiSteps(optax.adamw(0.1), 2).gradient_transformation(),
    "schedule_free": optax.contrib.schedule_free_adamw(0.1),
}
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
each_format = pytest.mark.parametrize("codec", FORMATS, ids=repr)
each_at_length = pytest.mark.parametrize("codec", [slow(FORMATS[0]), FORMATS[1]], ids=repr)


def kinds(state, p=MODEL):
    """The format of each slot, and else its dtype, by name and path."""
    found = entries(state, p, whole=True)
    kind = lambda x: repr(x.codec) if is_stored(x) else x.dtype.name
    return {(e.field, e.path): kind(e.array) for e in found if e.i is not None}


def stored_in(tx, p=MODEL):
    """The slots that are stored."""
    return {name for name, kind in kinds(jax.eval_shape(tx.init, p), p).items() if "(" in kind}


def keeps_its_structure_and_stores_the_large(tx, codec):
    plain = kinds(jax.eval_shape(tx.init, MODEL))
    tx = gx.store(tx, codec, seed=0)
    state = jax.eval_shape(tx.init, MODEL)
    updates, after = jax.eval_shape(tx.update, MODEL, state, MODEL)
    assert aval(after) == aval(state)
    assert aval(updates) == aval(MODEL)
    for (name, path), kind in kinds(state).items():
        assert kind in (plain[name, path], repr(codec))
        assert kind == plain[name, path] or path == "matrix" or name.endswith("_memory")
    return kinds(state)


@each_format
@pytest.mark.parametrize("case", FIRST, ids=str)
def test_every_optimizer_can_be_stored(case, codec):
    keeps_its_structure_and_stores_the_large(case.make(), codec)


@each_format
@pytest.mark.parametrize("name", OPTAX)
def test_those_of_optax_too(name, codec, lenient):
    kinds = keeps_its_structure_and_stores_the_large(OPTAX[name], codec)
    assert repr(codec) in kinds.values()


# How far the loss may be from that in float32, as a share of where it began; after 100 steps.
TOLERANCE = {gx.Rounded(): 0.002, gx.Blockwise(): 0.04}
CURVATURE = {"lbfgs": 0.1}  # whose pairs of differences should be exact
QUICK = {"adamw", "lion"}


@each_format
@pytest.mark.parametrize(
    "name", [n if n in QUICK else slow(n) for n in (c.optimizer.__name__ for c in FIRST)]
)
def test_trains_as_in_float32(name, codec):
    tx = next(c for c in FIRST if c.optimizer.__name__ == name).scheduled(100)
    expected, found = (loss(trained(t, 100)[0]) for t in (tx, gx.store(tx, codec, seed=0)))
    tolerance = max(CURVATURE.get(name, 0.0), TOLERANCE[codec])
    assert abs(found - expected) <= tolerance * loss(start())
    assert found < loss(start())


@each_format
@pytest.mark.parametrize("name", list(map(slow, OPTAX)))
def test_trains_as_in_float32_with_optax(name, codec, lenient):
    tx = OPTAX[name]
    expected, found = (loss(trained(t, 100)[0]) for t in (tx, gx.store(tx, codec, seed=0)))
    assert abs(found - expected) <= TOLERANCE[codec] * loss(start())


@pytest.mark.parametrize("codec", [HALF, slow(EIGHT), gx.Blockwise(4)], ids=repr)
def test_a_step_is_decode_update_encode(codec):
    """To the bit: with each slot's own salt, and the random bits of this step."""
    tx = gx.store(ADAMW, codec, seed=3)
    p, state = trained(tx, 2)
    updates, after, _ = tx.observe(TARGET, state, p)
    inner = jax.jit(gx.decode_state)(state.inner_state)
    expected, new = ADAMW.update(TARGET, inner, p)
    same(updates, expected)
    for salt, old, x, stored in zip(
        salts(jax.random.key(3), 0, 2),
        [state.inner_state[0].mu["matrix"], state.inner_state[0].nu["matrix"]],
        [new[0].mu["matrix"], new[0].nu["matrix"]],
        [after.inner_state[0].mu["matrix"], after.inner_state[0].nu["matrix"]],
        strict=True,
    ):
        bits = dither(salt, state.steps, x) if codec.stochastic else None
        same(stored, jax.jit(lambda old, x, bits: old.encode(x, bits))(old, x, bits))
    assert int(after.steps) == 3


def test_the_seed_and_the_step_decide_the_bits():
    run = lambda seed: trained(gx.store(ADAMW, HALF, seed=seed), 2)[1].inner_state[0].mu["matrix"].arrays
    same(run(1), run(1))
    same(run(1), run(jax.random.key(1)))
    differ = jnp.mean(run(1)["codes"] != run(2)["codes"])
    assert 0.3 < differ < 0.7


@pytest.mark.parametrize(
    "codec", [HALF, slow(EIGHT), gx.Blockwise(4), slow(gx.Blockwise(map="dynamic"))], ids=repr
)
def test_what_the_update_leaves_alone_keeps_every_bit(codec):
    """A parameter without a gradient, and a step that is skipped."""
    tx = gx.store(gx.chain(gx.scale_by_adam(), gx.trace(0.9)), codec, seed=0)
    skipping, p = gx.skip_if(tx, gx.nonfinite()), start()
    update, state = jax.jit(skipping.update), skipping.init(p)
    for _ in range(3):
        _, state = update(TARGET, state, p)
    _, after = update(jax.tree.map(lambda g: g * jnp.nan, TARGET), state, p)
    same(after.inner_state, state.inner_state)
    state = state.inner_state
    _, after = jax.jit(tx.update)({**TARGET, "matrix": None}, state, p)
    for name in ("mu", "nu", "trace"):
        old, new = (entries(s, p, whole=True) for s in (state, after))
        one = lambda found, name=name: next(e.array for e in found if (e.field, e.path) == (name, "matrix"))
        assert is_stored(one(old))
        same(one(new), one(old))


BOTH = {("mu", "matrix"), ("nu", "matrix")}
PAIRS = {("diff_params_memory", "matrix"), ("diff_updates_memory", "matrix")}
WHAT = [
    (gx.store(ADAMW, EIGHT), BOTH),
    (gx.store(ADAMW, {"nu": EIGHT}), {("nu", "matrix")}),
    (gx.store(ADAMW, {"mu": HALF}, min_size=12, seed=0), {("mu", "matrix"), ("mu", "small")}),
    (gx.store(ADAMW, EIGHT, min_size=8193), set()),
    (gx.store(ADAMW, {"nu": EIGHT}, min_size=8193), set()),
    (gx.store(gx.sgd(0.1), EIGHT), set()),
    (gx.store(ADAMW, HALF, where="^(?!matrix)", min_size=12, seed=0), {("mu", "small"), ("nu", "small")}),
    (gx.store(ADAMW, EIGHT, where=lambda path, p: p.shape[0] == 64), BOTH),
    (gx.store(gx.lookahead(ADAMW), EIGHT), BOTH),
    (gx.store(gx.lookahead(ADAMW), {"slow_params": EIGHT}), {("slow_params", "matrix")}),
    (gx.store(gx.chain(ADAMW, gx.ema_params(0.9), gx.average_params()), EIGHT), BOTH),
    (gx.store(gx.chain(ADAMW, gx.ema_params(0.9)), {"average": EIGHT}), {("average", "matrix")}),
    (gx.store(gx.chain(ADAMW, gx.master_weights()), EIGHT), BOTH),
    (gx.store(gx.scale_by_lbfgs(2), EIGHT), PAIRS),
    (gx.store(gx.scale_by_lbfgs(2), {"params": EIGHT}), {("params", "matrix")}),
    (gx.store(optax.contrib.schedule_free_adamw(0.1), EIGHT), {("nu", "matrix")}),
    (gx.store(gx.chain(gx.trace(0.9), gx.trace(0.5)), {"trace[1]": EIGHT}), {("trace", "matrix")}),
    (gx.groups(gx.store(ADAMW, EIGHT), {"^small$": MOMENTUM}), BOTH),
    (gx.store(gx.packed(ADAMW), EIGHT), BOTH),
    (gx.masked(gx.store(ADAMW, EIGHT, where="^matrix"), "matrices_only"), BOTH),
]  # fmt: skip


@pytest.mark.parametrize(("tx", "expected"), WHAT, ids=range(len(WHAT)))
def test_what_is_stored(tx, expected, lenient):
    assert stored_in(tx) == expected


def test_without_jit_the_same_is_stored():
    """`jax.disable_jit` is for debugging: the state has the type that it has under jit."""
    tx = gx.store(MOMENTUM, HALF, min_size=1, seed=0)
    p = {"w": jnp.ones((2, 3))}
    with jax.disable_jit():
        state = tx.init(p)
    assert aval(state) == aval(jax.eval_shape(tx.init, p))


def test_integers_and_complex_numbers_are_left_as_they_are():
    p = {"z": jax.ShapeDtypeStruct((64, 128), jnp.complex64)}
    assert stored_in(gx.store(ADAMW, EIGHT), p) == {("nu", "z")}

    def init(params):
        return {"seen": jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), params)}

    tx = gx.GradientTransformation(init, lambda u, s, p=None: (u, s))
    assert stored_in(gx.store(tx, EIGHT)) == set()
    with pytest.raises(TypeError, match=re.escape("store: seen of matrix is int32, and only real floating")):
        jax.eval_shape(gx.store(tx, {"seen": EIGHT}).init, MODEL)
    with pytest.raises(
        TypeError, match="store: mu of z is complex64, and only real floating point can be st"
    ):
        jax.eval_shape(gx.store(ADAMW, {"mu": EIGHT}).init, p)


def test_what_the_codec_cannot_hold_is_left_as_it_is_or_an_error_by_name():
    p = {
        "odd": jax.ShapeDtypeStruct((700, 7), jnp.float32),
        "even": jax.ShapeDtypeStruct((64, 64), "float32"),
    }
    assert stored_in(gx.store(ADAMW, EIGHT), p) == {("mu", "even"), ("nu", "even")}
    with pytest.raises(ValueError, match=r"store: nu of odd: .*7"):
        jax.eval_shape(gx.store(ADAMW, {"nu": EIGHT}).init, p)
    for codecs in (gx.Blockwise(block=48), {"mu": gx.Blockwise(block=48)}):
        with pytest.raises(ValueError, match=r"store: mu of even: block=48 does not divide"):
            jax.eval_shape(gx.store(ADAMW, codecs, where="even", seed=0).init, p)


@pytest.mark.parametrize("codec", [NEAREST, gx.Rounded("float16", "nearest")], ids=repr)
def test_squares_that_would_stall_are_refused_unless_forced(codec):
    text = re.escape(
        f"store: nu of matrix holds no numbers below 0: averages of squares stall or underflow in {codec!r}; "
        "take Rounded('bfloat16', 'stochastic') or Blockwise(), or force=True to use it anyway"
    )
    for codecs in (codec, {"nu": codec}):
        with pytest.raises(ValueError, match=text):
            jax.eval_shape(gx.store(ADAMW, codecs).init, MODEL)
    forced = gx.Rounded(codec.dtype, codec.rounding, force=True)
    assert stored_in(gx.store(ADAMW, forced)) == BOTH
    assert stored_in(gx.store(ADAMW, {"mu": codec})) == {("mu", "matrix")}
    assert stored_in(gx.store(gx.chain(gx.trace(0.9)), codec)) == {("trace", "matrix")}
    assert stored_in(gx.store(ADAMW, codec, min_size=10000)) == set()


ERRORS = [
    (lambda: gx.store(ADAMW, HALF), TypeError, "store: Rounded() rounds by chance: give seed, an integer or"),
    (lambda: gx.store(ADAMW, {"nu": EIGHT, "mu": HALF}), TypeError, "store: Rounded() rounds by chance"),
    (lambda: gx.store(ADAMW, HALF, seed="a"), TypeError, "store: seed must be an integer or one random key"),
    (lambda: gx.store(ADAMW, "bfloat16"), TypeError, "store: codecs must be a codec, such as Rounded('bf"),
    (lambda: gx.store(ADAMW, {}), TypeError, "or a dict from the names of slots to codecs, got {}"),
    (lambda: gx.store(ADAMW, {"nu": gx.Blockwise}), TypeError, "to codecs, got {'nu': Blockwise}"),
    (lambda: gx.store(gx.adamw, EIGHT), TypeError, "the inner transformation of store is not a gradient"),
    (lambda: gx.store(ADAMW, EIGHT, min_size=0), ValueError, "store: min_size must be an integer of at"),
    (lambda: gx.store(ADAMW, EIGHT, where="("), ValueError, "store: where: '(' is not a regular expression"),
    (lambda: gx.store(ADAMW, EIGHT, where=3), TypeError, "store: where: a pattern is a regular expression"),
    (
        lambda: gx.store(ADAMW, EIGHT, where="kernel").init(start()),
        ValueError,
        "store: where='kernel' matches none of the parameters ['matrix', 'small', 'vector']",
    ),
    (
        lambda: gx.store(ADAMW, {"trace": EIGHT}).init(start()),
        KeyError,
        "store: no slot is named 'trace'; the state has ['mu', 'nu']",
    ),
    (
        lambda: gx.store(gx.chain(gx.trace(0.9), gx.trace(0.9)), {"trace": EIGHT}).init(start()),
        ValueError,
        "store: 'trace' may be any of ['trace[0]', 'trace[1]']",
    ),
    (
        lambda: gx.store(ADAMW, EIGHT).update(start(), ADAMW.init(start()), start()),
        TypeError,
        "store needs a StoreState, and was given a tuple",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_an_inner_store_keeps_what_it_has():
    inner = gx.store(gx.trace(0.9), EIGHT)
    tx = gx.store(gx.chain(inner, gx.scale_by_adam()), HALF, seed=0)
    state = jax.eval_shape(tx.init, MODEL)
    found = {s.codec for s in jax.tree.leaves(state, is_leaf=is_stored) if is_stored(s)}
    assert found == {EIGHT, HALF}
    same(trained(tx, 2)[1].inner_state[0], trained(gx.chain(inner, gx.scale_by_adam()), 2)[1][0])


@each_at_length
def test_numbers_in_float64_stay_float64(codec, x64):
    p = {"matrix": jnp.ones((64, 128), jnp.float64)}
    tx = gx.store(ADAMW, codec, seed=0)
    state = tx.init(p)
    updates, after = tx.update(p, state, p)
    assert aval(after) == aval(state)
    assert updates["matrix"].dtype == gx.get_slot(after, p, "mu")["matrix"].dtype == jnp.float64


@each_at_length
def test_models_side_by_side(codec):
    tx = gx.store(ADAMW, codec, seed=0)
    both = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), TARGET)
    states = jax.vmap(tx.init)(both)
    updates, states = jax.jit(jax.vmap(tx.update))(both, states, both)
    for i in range(2):
        p = jax.tree.map(lambda x, i=i: x[i], both)
        u, state = jax.jit(tx.update)(p, tx.init(p), p)
        same(jax.tree.map(lambda x, i=i: x[i], states), state)
        same(jax.tree.map(lambda x, i=i: x[i], updates), u)


@each_at_length
def test_follows_the_sharding_of_the_parameters(codec):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    p = jax.device_put({"matrix": TARGET["matrix"]}, sharding)
    tx = gx.store(ADAMW, codec, seed=0)
    state = tx.init(p)
    updates, after = jax.jit(tx.update)(p, state, p)
    for s in (state, after):
        for _, path, x in gx.slots(s, p):
            assert x.sharding.is_equivalent_to(sharding, x.ndim), path
    whole = {"matrix": TARGET["matrix"]}
    same(jax.device_get((updates, after)), jax.device_get(jax.jit(tx.update)(whole, tx.init(whole), whole)))


def test_extra_arguments_and_injected_hyperparameters(lenient):
    inner = gx.store(gx.chain(gx.polyak_sgd(0.1), gx.trace(0.9)), EIGHT)
    with pytest.raises(TypeError, match="value"):
        inner.update(TARGET, inner.init(start()), start())
    inner.update(TARGET, inner.init(start()), start(), value=1.0)
    make = lambda learning_rate: gx.store(gx.adamw(learning_rate), HALF, seed=0)
    tx, p = gx.inject_hyperparams(make)(0.1), start()
    state = tx.init(p)
    _, kept = jax.jit(tx.update)(TARGET, gx.set_hyperparams(state, learning_rate=0.0), p)
    assert aval(kept) == aval(state)
    same(kept.inner_state, jax.jit(make(0.0).update)(TARGET, make(0.0).init(p), p)[1])


def test_hyperparameters_are_seen_through_store():
    tx = gx.store(gx.adamw(0.1), EIGHT)
    rules = {"^matrix": dict(learning_rate=gx.scaled(0.5))}
    half = gx.store(gx.adamw(0.05), EIGHT)
    state = gx.groups(tx, rules).init(start())
    u, _ = gx.groups(tx, rules).update(TARGET, state, start())
    same(u["matrix"], half.update(TARGET, half.init(start()), start())[0]["matrix"])
    assert gx.layerwise_decay(tx, ["^matrix", "^small"], 0.5).init(start())


BYTES = [(gx.adamw(1e-3), 8.0), (gx.store(gx.adamw(1e-3), HALF, seed=0), 4.0)]
BYTES += [
    (gx.store(gx.adamw(1e-3), gx.Blockwise(), seed=0), 2.05),
    (gx.store(gx.adamw(1e-3), gx.Blockwise(4), seed=0), 1.1),
]


@pytest.mark.parametrize(("tx", "most"), BYTES, ids=repr)
def test_bytes_of_live_buffers(tx, most):
    """Ten million parameters; biases and counts in the third digit."""
    shapes = {"embed": (2048, 1024), "up": (1024, 4096), "down": (4096, 960), "bias": (1024,)}
    p = {k: jnp.zeros(shape) for k, shape in shapes.items()}
    state = jax.jit(tx.init)(p)
    size = sum(x.size for x in p.values())
    held = sum(x.on_device_size_in_bytes() for x in jax.tree.leaves(state))
    assert size > 10e6
    assert held / size <= most + 0.01
    assert gx.summarize(tx, p).bytes == sum(x.nbytes for x in jax.tree.leaves(state))


def test_a_state_in_another_format():
    state = gx.store(ADAMW, gx.Blockwise(4), seed=0).init(MODEL)
    with pytest.raises(
        ValueError, match=r"the state holds Blockwise\(bits=4\), and codecs is Blockwise\(\): use migrate"
    ):
        gx.store(ADAMW, gx.Blockwise(), seed=0).update(MODEL, state, MODEL)
