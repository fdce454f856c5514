"""accumulate: k micro-batches are one large batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gradx as gx
from gradx.core.reports import Report
from tests.cases import CASES, FEW, FIRST
from tests.problems import aval, grads, params

ROWS = 12  # of a batch, each with a gradient
PARAMS = {name: params()[name] for name in "wb"}


def batch(step):
    """The gradients of all rows, stacked."""
    random = np.random.default_rng(step)
    return jax.tree.map(lambda x: random.normal(0.5, 1.0, (ROWS, *x.shape)), PARAMS)


def mean(rows, start=0, stop=ROWS):
    return jax.tree.map(lambda x: jnp.asarray(x[start:stop].mean(0), jnp.float32), rows)


def run(tx, p, gradients, given=()):
    """The parameters after each call, and the last state."""
    state, seen = tx.init(p), []
    for i, g in enumerate(gradients):
        u, state = tx.update(g, state, p, **(given[i] if given else {}))
        p = gx.apply_updates(p, u)
        seen.append(p)
    return seen, state


def close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=atol), a, b)


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def exact(case, sizes, weight):
    """Two steps of the micro-batches of these sizes are two of all rows."""
    p, tx = PARAMS, case.make()
    ends, batches = np.cumsum(sizes), [batch(step) for step in range(2)]
    small = [mean(b, end - size, end) for b in batches for size, end in zip(sizes, ends, strict=True)]
    given = [{weight: size} for size in sizes] * 2 if weight else ()
    seen, state = run(gx.accumulate(tx, len(sizes), weight=weight), p, small, given)
    large, _ = run(tx, p, [mean(rows) for rows in batches])
    close(seen[len(sizes) - 1 :: len(sizes)], large)
    assert bits(seen[: len(sizes) - 1]) == bits([p] * (len(sizes) - 1))
    assert state.gradient_step == 2


@pytest.mark.parametrize("case", FEW, ids=str)
def test_ragged_micro_batches_are_one_large_batch(case):
    """To 1e-6 in float32, for every optimizer."""
    exact(case, [11, 1], "num_tokens")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in FIRST], ids=str)
def test_ragged_micro_batches_are_one_large_batch_for_every_variant(case):
    exact(case, [11, 1], "num_tokens")


@pytest.mark.parametrize(
    "case", [*FIRST[:1], *(c for c in FIRST if c.optimizer in (gx.adamw, gx.lamb))], ids=str
)
def test_micro_batches_of_one_size_are_one_large_batch(case):
    exact(case, [3, 3, 3, 3], None)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_micro_batches_of_one_size_are_one_large_batch_for_every_optimizer(case):
    exact(case, [4, 4, 4], None)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(0, 2**31 - 1))
def test_any_division_of_the_rows_has_their_mean(sizes, seed):
    """Micro-batches without rows, whose mean is 0 / 0, change nothing."""
    rows = np.random.default_rng(seed).normal(1.0, 1.0, (sum(sizes), 3)).astype(np.float32)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    tx = gx.accumulate(gx.identity(), len(sizes), weight="n")
    state = tx.init(jnp.zeros(3))
    for part in parts:
        g = part.mean(0) if len(part) else np.full(3, np.nan, np.float32)
        u, state = tx.update(jnp.asarray(g), state, n=len(part))
    assert gx.has_updated(state) == (sum(sizes) > 0)
    if sum(sizes):
        np.testing.assert_allclose(u, rows.astype(np.float64).mean(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(state.acc_grads, u)
        assert state.skip_state.weight == sum(sizes)


def test_the_mean_of_many():
    """Of 1,000 gradients, in float32 to 1e-6; in bf16 as good as bf16 can be."""
    g = np.random.default_rng(0).normal(1.0, 0.1, 1000).astype(np.float32)

    def last(dtype, grads):
        tx = gx.accumulate(gx.identity(), 1000, dtype=dtype)
        body = lambda state, g: tx.observe(g, state)[1::-1]
        state, u = jax.jit(lambda s, g: jax.lax.scan(body, s, g))(tx.init(jnp.zeros(())), grads)
        assert state.acc_grads.dtype == (dtype or jnp.float32)
        assert u.dtype == jnp.float32
        return u[-1]

    np.testing.assert_allclose(last(None, jnp.asarray(g)), g.astype(np.float64).mean(), rtol=1e-6)
    low = jnp.asarray(g, jnp.bfloat16)
    np.testing.assert_allclose(last(None, low), np.asarray(low, np.float64).mean(), rtol=1e-6)
    assert last(jnp.bfloat16, low).item() == pytest.approx(1.0, rel=0.1)


def test_float64_and_complex_gradients_keep_their_precision(x64):
    p = {"x": jnp.zeros(2, jnp.float64), "z": jnp.zeros(2, jnp.complex128)}
    gs = [jax.tree.map(lambda x: jnp.full_like(x, v), p) for v in (0.1, 0.2, 0.4)]
    u = None
    tx = gx.accumulate(gx.identity(), 3)
    state = tx.init(p)
    for g in gs:
        u, state = tx.update(g, state)
    assert (u["x"].dtype, u["z"].dtype) == (jnp.float64, jnp.complex128)
    close(u, jax.tree.map(lambda x: jnp.full_like(x, 0.7 / 3), p), atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_waiting_changes_no_bit_of_a_parameter(dtype):
    values = [0.0, -0.0, jnp.nan, jnp.inf, -jnp.inf, 1e-7, -1.0]
    p = jnp.asarray(values, dtype)
    if dtype == "complex64":
        p = jax.lax.complex(p.real, -p.real)
    tx = gx.accumulate(gx.sgd(0.1), 2)
    for update in (tx.update, jax.jit(tx.update)):
        u, _ = update(jnp.ones_like(p), tx.init(p), p)
        assert bits(gx.apply_updates(p, u)) == bits(p)
        assert bits(jax.jit(gx.apply_updates)(p, u)) == bits(p)


def test_eager_jitted_donated_and_scanned_are_one():
    tx, p = gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.ema(0.9)), 3), params()
    gs = [grads(i, p) for i in range(7)]

    def step(carry, g):
        p, state = carry
        u, state = tx.update(g, state, p)
        return (gx.apply_updates(p, u), state), None

    eager, jitted = (p, tx.init(p)), (params(), tx.init(p))
    donated = jax.jit(step, donate_argnums=0)
    for g in gs:
        eager, jitted = step(eager, g)[0], donated(jitted, g)[0]
    scanned, _ = jax.jit(lambda c: jax.lax.scan(step, c, jax.tree.map(lambda *x: jnp.stack(x), *gs)))(
        (p, tx.init(p))
    )
    close(eager, jitted)
    close(eager, scanned)
    assert eager[1].inner_opt_state[1].count == 2


def test_the_inner_transformation_counts_real_steps_and_sees_their_arguments():
    def update(updates, state, params=None, *, tag):
        return updates, tag

    inner = gx.chain(
        optax.GradientTransformationExtraArgs(lambda p: jnp.zeros((), jnp.int32), update),
        gx.scale_by_schedule(gx.exponential_decay(1.0, 1, 0.1)),
    )
    tx, out, tags = gx.accumulate(inner, 2), [], []
    state = tx.init(jnp.zeros(1))
    for i in range(6):
        u, state = tx.update(jnp.ones(1), state, tag=jnp.int32(i))
        out.append(float(u[0]))
        tags.append(int(state.inner_opt_state[0]))
    np.testing.assert_allclose(out, [0, 1, 0, 0.1, 0, 0.01], rtol=1e-6)
    assert tags == [0, 1, 1, 3, 3, 5]
    assert state.inner_opt_state[1].count == state.gradient_step == 3


def test_a_schedule_of_how_many():
    """A function of real steps; its value is rounded, and less than one is one."""
    for every, steps in [
        (lambda n: 1 + n, [0, 2, 5, 9]),
        (lambda n: 2.9999, [2, 5, 8, 11]),
        (lambda n: 0, list(range(12))),
        (gx.piecewise_constant_schedule(4.0, {2: 0.5}), [3, 7, 9, 11]),
    ]:
        tx, x = gx.accumulate(gx.sgd(1.0), every), jnp.ones(1)
        update, state, updated = jax.jit(tx.update), tx.init(x), []
        for i in range(12):
            _, state = update(x, state)
            updated += [i] if gx.has_updated(state) else []
        assert updated == steps


def test_nothing_but_weightless_micro_batches_make_no_step():
    tx, x = gx.accumulate(gx.adam(0.1), 2, weight="n"), jnp.ones(2)
    before = tx.init(x)
    _, state = tx.update(jnp.full(2, jnp.nan), before, n=0)
    u, state = tx.update(jnp.full(2, jnp.nan), state, n=0.0)
    assert bits(u) == bits(-jnp.zeros(2))
    assert bits(state) == bits(before)
    assert not gx.has_updated(state)
    _, state = tx.update(x, state, n=3)
    u, state = tx.update(jnp.full(2, jnp.nan), state, n=0)
    np.testing.assert_allclose(u, -0.1, rtol=1e-5)
    assert gx.has_updated(state)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_micro_batch_that_is_not_finite_is_dropped(bad):
    x = jnp.ones(2)
    gs = [jnp.full(2, 1.0), jnp.array([1.0, bad]), jnp.full(2, 3.0)]
    given = [{"n": 1}, {"n": 50}, {"n": 3}]
    for weight, expected in [(None, 2.0), ("n", 2.5)]:
        tx = gx.accumulate(gx.sgd(1.0), 3, weight=weight, drop_nonfinite=True)
        seen, state = run(tx, x, gs, given)
        np.testing.assert_allclose(seen[-1], x - expected, rtol=1e-6)
        assert state.skip_state.dropped == 1
        seen, state = run(tx, x, [gs[1]] * 3, given)
        assert bits(seen[-1]) == bits(x)
        assert not gx.has_updated(state)
        assert state.skip_state.dropped == 3
    kept, state = run(gx.accumulate(gx.sgd(1.0), 3), x, gs)
    assert not jnp.isfinite(kept[-1][1])
    again, _ = run(gx.accumulate(gx.sgd(1.0), 3), x, [*gs, *[gs[0]] * 3])  # the mean starts anew
    assert again[-1][0] == again[2][0] - 1


def test_averaged_arguments_are_those_of_the_large_batch():
    """Polyak's step goes by the loss: that of all rows, not that of the last micro-batch."""
    p, rows = PARAMS, batch(0)
    losses = np.linspace(1.0, 3.0, ROWS).astype(np.float32)
    tx, sizes = gx.polyak_sgd(1.0), [7, 4, 1]
    (large,), _ = run(tx, p, [mean(rows)], [{"value": losses.mean()}])
    parts = [
        (mean(rows, i, i + n), {"value": losses[i : i + n].mean(), "n": n}) for i, n in zip((0, 7, 11), sizes)
    ]
    averaged = gx.accumulate(tx, 3, weight="n", averaged="value")
    seen, state = run(averaged, p, *zip(*parts))
    close(seen[-1], large)
    np.testing.assert_allclose(state.skip_state.means["value"], losses.mean(), rtol=1e-6)
    last, _ = run(gx.accumulate(tx, 3, weight="n"), p, *zip(*parts))
    assert not np.allclose(last[-1]["w"], large["w"], atol=1e-3)


def test_inside_itself():
    """The inner one is given the sum of the weights: six ragged micro-batches are one batch."""
    p, rows, sizes = PARAMS, batch(0), [1, 4, 2, 1, 1, 3]
    ends = np.cumsum(sizes)
    gs = [mean(rows, end - n, end) for n, end in zip(sizes, ends)]
    inner = gx.accumulate(gx.sgd(0.1), 3, weight="n")
    tx = gx.accumulate(inner, 2, weight="n", dtype=jnp.float32)
    seen, state = run(tx, p, gs, [{"n": n} for n in sizes])
    close(seen[-1], run(gx.sgd(0.1), p, [mean(rows)])[0][-1])
    assert bits(seen[:-1]) == bits([p] * 5)
    assert state.gradient_step == 3
    assert state.inner_opt_state.gradient_step == 1
    assert gx.has_updated(state)  # the outer one


def test_on_a_mesh_with_explicit_axes():
    """The updates of a call that waits have the type of those of a step, sharding and all."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        p = {"w": jax.device_put(jnp.ones((4, 3)), NamedSharding(mesh, PartitionSpec("data", None)))}
        tx = gx.accumulate(gx.sgd(0.1), 2)
        state, update = tx.init(p), jax.jit(tx.update)
        for _ in range(2):
            u, state = update(p, state, p)
            assert u["w"].sharding == p["w"].sharding == state.acc_grads["w"].sharding
    np.testing.assert_allclose(u["w"], -0.1, rtol=1e-4)


def test_inside_shard_map():
    """Each device for itself, with gradients of its own."""
    tx = gx.accumulate(gx.sgd(1.0), 2)

    def local(p):
        state = tx.init(p)
        for _ in range(2):
            u, state = tx.update(p, state, p)
        return gx.apply_updates(p, u)

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    each = jax.shard_map(local, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    np.testing.assert_array_equal(jax.jit(each)(jnp.arange(4.0)), 0.0)


PLAIN = gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1, momentum=0.9))
NESTED = [
    gx.chain(gx.accumulate(PLAIN, 3), gx.identity()),
    gx.accumulate(gx.packed(PLAIN), 3),
    gx.packed(gx.accumulate(PLAIN, 3)),
    gx.masked(gx.accumulate(PLAIN, 3), lambda p: jax.tree.map(lambda _: True, p)),
    gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.inject_hyperparams(gx.sgd)(0.1, 0.9)), 3),
    gx.accumulate(gx.lookahead(PLAIN, 10), 3),
    optax.chain(gx.accumulate(PLAIN, 3), optax.identity()),
    gx.MultiSteps(PLAIN, 3, should_skip_update_fn=gx.skip_not_finite),
]


@pytest.mark.parametrize("tx", NESTED, ids=[f"{i}-{type(tx).__name__}" for i, tx in enumerate(NESTED)])
def test_nests(tx, lenient):
    p = PARAMS
    gs = [grads(i, p) for i in range(6)]
    means = [jax.tree.map(lambda *x: sum(x) / 3, *gs[i : i + 3]) for i in (0, 3)]
    seen, state = run(tx, p, gs)
    close(seen[2::3], run(PLAIN, p, means)[0])
    assert gx.has_updated(state)
    assert aval(state) == aval(tx.init(p))


def test_reports_its_micro_step_and_passes_on_what_is_inside():
    def observe(updates, state, params=None, **extra):
        return updates, state, (Report("inner", 7.0),)

    inner = gx.GradientTransformation.of(
        lambda params: gx.EmptyState(), observe, lambda params: (Report("inner", 0.0),)
    )
    tx = gx.accumulate(inner, 2, drop_nonfinite=True)
    state, heard = tx.init(jnp.ones(1)), []
    names = [r.name for r in tx.blank(jnp.ones(1))]
    assert names == ["dropped", "inner", "micro_step"]
    for call in (tx.observe, jax.jit(tx.observe)):
        for _ in range(2):
            _, state, reports = call(jnp.ones(1), state)
            assert [r.name for r in reports] == names
            heard.append(([float(r.value) for r in reports], [bool(r.news) for r in reports]))
    assert heard == [([0, 0, 1], [True, False, True]), ([0, 7, 0], [True, True, True])] * 2


def test_errors():
    x = jnp.ones(2)
    inner = gx.sgd(0.1)
    for every in (0, -1, 2.5, True, "4"):
        with pytest.raises(ValueError, match=r"accumulate: every must be an integer of at least 1, got"):
            gx.accumulate(inner, every)
    for tx, name in (
        (gx.accumulate(inner, lambda n: jnp.ones(2)), "accumulate: the schedule for every"),
        (gx.MultiSteps(inner, lambda n: jnp.ones(2)), "MultiSteps: the schedule for every_k_schedule"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must give one number for a step"):
            tx.update(x, tx.init(x), x)
    for make in (gx.accumulate, gx.MultiSteps):
        with pytest.raises(TypeError, match=r"every\w* is a stateful schedule"):
            make(inner, gx.reduce_on_plateau(1.0))
    with pytest.raises(
        TypeError, match=r"accumulate: weight and averaged must be names of arguments of update, got 3"
    ):
        gx.accumulate(inner, 2, weight=3)
    with pytest.raises(
        TypeError, match=r"accumulate: weight and averaged must be names of arguments of update, got 1"
    ):
        gx.accumulate(inner, 2, averaged=("value", 1))
    with pytest.raises(TypeError, match="the inner transformation of accumulate is not a gradient transf"):
        gx.accumulate(gx.adam, 2)
    tx = gx.accumulate(inner, 2, weight="n", averaged="value")
    state = tx.init(x)
    with pytest.raises(
        TypeError, match=r"accumulate needs 'n': call update\(updates, state, params, n=...\)"
    ):
        tx.update(x, state, x)
    with pytest.raises(TypeError, match="accumulate needs 'value'"):
        tx.update(x, state, x, n=1)
    with pytest.raises(ValueError, match="accumulate: n must be at least 0, got -1"):
        tx.update(x, state, x, n=-1, value=0.0)
    with pytest.raises(ValueError, match=r"n must be one number, got an array of shape \(2,\)"):
        tx.update(x, state, x, n=x, value=0.0)
    with pytest.raises(TypeError, match="accumulate needs a MultiStepsState, and was given a tuple"):
        tx.update(x, (), x, n=1, value=0.0)
    with pytest.raises(TypeError, match="accumulate needs a MicroBatches, and was given a tuple"):
        tx.update(x, gx.accumulate(inner, 2).init(x), x, n=1, value=0.0)
    with pytest.raises(ValueError, match="accumulator, at the root: acc_grads has shape"):
        gx.accumulate(inner, 2).update(jnp.ones(3), gx.accumulate(inner, 2).init(x))
    with pytest.raises(
        ValueError, match="has_updated needs a state with one accumulate or MultiSteps, and this one has 0"
    ):
        gx.has_updated(inner.init(x))
    with pytest.raises(ValueError, match="and this one has 2"):
        gx.has_updated((state, state))
