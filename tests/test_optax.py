"""Living together with Optax: inside its combinators, and in its place."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.cases import FEW, FIRST
from tests.problems import grads, params

pytestmark = pytest.mark.usefixtures("lenient")
each_case = pytest.mark.parametrize("case", FEW, ids=str)
P = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.linspace(0.5, 1.0, 3)}


def run(tx, p, steps=4, **extra):
    state, update = tx.init(p), jax.jit(tx.update)
    for i in range(steps):
        u, state = update(grads(i, p), state, p, **extra)
        p = optax.apply_updates(p, u)
    return p


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


@each_case
def test_inside_optax_chain(case):
    theirs = optax.chain(optax.clip(0.5), case.make())
    close(run(theirs, P, value=jnp.float32(1.0)), run(gx.chain(gx.clip(0.5), case.make()), P))


@each_case
def test_inside_optax_partition(case):
    tx = optax.partition({"a": case.make(), "b": optax.sgd(0.1)}, {"w": "a", "b": "b"})
    out = run(tx, P)
    close(out["w"], run(case.make(), P)["w"])
    close(out["b"], run(optax.sgd(0.1), P)["b"])


@each_case
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float32, marks=pytest.mark.slow)])
def test_inside_optax_multisteps(case, dtype):
    """Two micro-steps are one step with the mean gradient."""
    p = jax.tree.map(lambda x: x.astype(dtype), P)
    tx = optax.MultiSteps(case.make(), every_k_schedule=2)
    state, update = tx.init(p), jax.jit(tx.update)
    g = [grads(i, p) for i in range(2)]
    u, state = update(g[0], state, p)
    assert not any(jnp.any(x) for x in jax.tree.leaves(u))
    u, state = update(g[1], state, p)
    one = case.make()
    v, _ = one.update(jax.tree.map(lambda x, y: (x + y) / 2, *g), one.init(p), p)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0.05 if dtype == jnp.bfloat16 else 1e-4), u, v
    )


@each_case
def test_inside_other_wrappers_of_optax(case):
    expected = run(case.make(), P)
    close(run(optax.apply_if_finite(case.make(), 3), P), expected)
    close(run(optax.named_chain(("only", case.make())), P), expected)
    close(run(optax.masked(case.make(), {"w": True, "b": True}), P), expected)
    close(run(optax.with_extra_args_support(case.make()), P, value=1.0), expected)


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_its_state_can_be_searched_with_optax(case):
    state = case.scheduled(10).init(P)
    counts = optax.tree_utils.tree_get_all_with_path(state, "count")
    assert counts
    assert all(int(count) == 0 for _, count in counts)


TYPICAL = '''
import jax, jax.numpy as jnp

def loss(params, x, y):
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

key = jax.random.key(0)
x = jax.random.normal(key, (32, 4))
y = x @ jnp.arange(1.0, 5.0) + 0.5
params = {"w": jnp.zeros(4), "b": jnp.zeros(())}
schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0, peak_value=0.3, warmup_steps=10, decay_steps=100, end_value=1e-3)
joined = optax.join_schedules([optax.linear_schedule(1.0, 0.5, 50), optax.constant_schedule(0.5)], [50])

def decay_mask(params):
    return jax.tree.map(lambda p: p.ndim > 0, params)

tx: optax.GradientTransformation = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.masked(optax.clip(10.0), {"w": True, "b": False}),
    optax.scale_by_adam(b1=0.9, b2=0.99, eps=1e-8),
    optax.add_decayed_weights(1e-4, mask=decay_mask),
    optax.stateless(lambda updates, params: updates),
    optax.stateless_with_tree_map(lambda u, p: u),
    optax.scale_by_schedule(joined),
    optax.scale_by_learning_rate(schedule),
)
sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9, nesterov=True)

def train(tx, params):
    state: optax.OptState = tx.init(params)

    @jax.jit
    def step(params: optax.Params, state):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    for _ in range(100):
        params, state, value = step(params, state)
    return params

results = [train(t, params) for t in (
    tx, sgd, optax.adamw(schedule, weight_decay=1e-3), optax.lion(0.01), optax.lamb(0.05),
    optax.lars(1.0, trust_ratio_mask=decay_mask), optax.adam(0.1, nesterov=True),
    optax.named_chain(("trace", optax.trace(decay=0.9)), ("lr", optax.scale(-0.01))),
    optax.chain(optax.ema(0.9), optax.scale_by_trust_ratio(), optax.scale_by_sign(), optax.scale(-0.01)),
    optax.chain(optax.clip_by_block_rms(0.1), optax.scale_by_lion(), optax.identity(), optax.scale(-0.01)),
)]
'''  # fmt: skip


def test_typical_optax_code_runs_unchanged():
    """The same text, once with optax and once with gradx under its name."""
    ours, theirs = {"optax": gx}, {"optax": optax}
    exec(TYPICAL, ours)
    exec(TYPICAL, theirs)
    for a, b in zip(ours["results"], theirs["results"], strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4), a, b)


def test_the_states_of_optax_are_the_states_of_gradx():
    """Checkpoints and tools that look for a class find it."""
    state = gx.chain(gx.adamw(gx.constant_schedule(0.1), mask=gx.matrices_only), gx.trace(0.9)).init(params())
    assert isinstance(state[0][0], optax.ScaleByAdamState)
    assert isinstance(state[0][1], optax.MaskedState)
    assert isinstance(state[0][2], optax.ScaleByScheduleState)
    assert isinstance(state[1], optax.TraceState)
    decay = gx.add_decayed_weights(gx.constant_schedule(0.1)).init(params())
    assert type(decay) is type(optax.add_decayed_weights(lambda step: 0.1).init(params()))
