"""The floor of a step: figures by hand, and what a floor must not depend on."""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradx as gx
from gradx.analysis.lower_bound import floor_bytes

N = 1000
PARAMS = {k: jax.ShapeDtypeStruct((N, N), jnp.float32) for k in ("a", "b")}
V = 4 * N * N  # the bytes of one of them


def floor(tx, params=PARAMS, **extra):
    """A parameter's share of the floor of one donated step."""
    state = jax.eval_shape(tx.init, params)
    update = optax.with_extra_args_support(tx).update

    def step(params, state, grads):
        updates, state = update(grads, state, params, **extra)
        return gx.apply_updates(params, updates), state

    jaxpr = jax.make_jaxpr(step)(params, state, params)
    donated = len(jax.tree.leaves((params, state)))
    return floor_bytes(jaxpr, donated) / sum(p.size for p in jax.tree.leaves(params))


BY_HAND = [
    # In float32: arrays read in each pass | and written, by 4 bytes.
    (lambda m: m.set_to_zero(), 8),  # p | p, as p + 0 is not seen to be p
    (lambda m: m.sgd(0.1), 12),  # g p | p
    (lambda m: m.sgd(0.1, momentum=0.9), 20),  # g p trace | p trace
    (lambda m: m.sgd(m.linear_schedule(0.1, 0.0, 10)), 12),
    (lambda m: m.lion(1e-3), 20),  # g p mu | p mu
    (lambda m: m.adamw(1e-3), 28),  # g p mu nu | p mu nu
    (lambda m: m.adadelta(1.0), 28),
    (lambda m: m.adan(1e-3), 44),  # g p and four slots | p and four slots
    (lambda m: m.noisy_sgd(0.1, key=0), 12),  # the noise is never in memory
    (lambda m: m.optimistic_gradient_descent(0.1), 20),  # g p before | p, and g where it was before
    (lambda m: m.chain(m.clip_by_global_norm(1.0), m.adamw(1e-3)), 32),  # g, then g p mu nu | p mu nu
    (lambda m: m.chain(m.clip_by_block_rms(1.0), m.sgd(0.1)), 16),  # g, then g p | p
    (lambda m: m.chain(m.scale_by_adam(), m.clip_by_global_norm(1.0), m.scale(-0.1)), 36),
    # g mu nu, then (mu nu p) | p mu nu
]
OURS = [
    (gx.fromage(0.01), 20),  # g p for their norms, then g p | p
    (gx.novograd(0.01), 24),  # g, then g p mu | p mu
    (gx.lars(0.1, weight_decay=0.01), 28),  # g p for their norms, then g p trace | p trace
    (gx.lamb(1e-3, weight_decay=0.01), 40),  # g p mu nu for norms, then (mu nu p) | p mu nu
    (gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(1e-3, weight_decay=0.01)), 44),  # g before all that
    (gx.adafactor(0.01), 24.05),  # g for sums, g for the norm of u and p for its own, g p | p; and vectors
    (gx.lookahead(gx.sgd(0.1), 3), 20),  # g p slow | p slow
]


@pytest.mark.parametrize(("make", "expected"), BY_HAND)
@pytest.mark.parametrize("module", [gx, optax], ids=lambda m: m.__name__)
def test_floors_by_hand(make, expected, module, lenient):
    assert floor(make(module)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("tx", "expected"), OURS, ids=repr)
def test_floors_of_norms_by_hand(tx, expected, lenient):
    assert floor(tx) == pytest.approx(expected, abs=0.01)


def test_a_norm_that_waits_for_a_norm_costs_another_pass(lenient):
    """Optax's safe norms: of x, then of x or ones, whichever the first norm says."""
    assert floor(optax.lamb(1e-3, weight_decay=0.01)) == pytest.approx(48, abs=0.01)


def test_what_is_opaque_is_read_and_written(lenient):
    """g to see whether it is finite; p g mu nu | u mu nu by the conditional; then u p | p."""
    assert floor(optax.apply_if_finite(optax.adamw(1e-3), 3)) == pytest.approx(44, abs=0.01)


def test_16_bit_parameters(lenient):
    low = {"w": jax.ShapeDtypeStruct((N, N), jnp.bfloat16)}
    assert floor(gx.adamw(1e-3), low) == pytest.approx(22, abs=0.01)  # 2 2 4 4 | 2 4 4
    assert floor(gx.sgd(0.1), low) == pytest.approx(6, abs=0.01)


def moved(f, *shapes, donated=0):
    """The floor of a function, in arrays of N x N."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return round(floor_bytes(jax.make_jaxpr(f)(*arrays), donated) / V, 2)  # scalars hardly count


X = (N, N)


def test_random_bits_of_roundings_are_free(lenient):
    params = jax.tree.map(lambda p: p.update(dtype=jnp.bfloat16), PARAMS)
    tx = gx.adamw(1e-3)
    assert floor(gx.chain(tx, gx.stochastic_rounding(0)), params) == pytest.approx(22, abs=1e-3)
    assert floor(gx.precision(tx, "bf16-stochastic"), params) == pytest.approx(14, abs=1e-3)


def test_elementwise_operations_are_one_pass():
    assert moved(lambda x: jnp.tanh(x) * x + 1, X) == 2
    assert moved(lambda x, y: (x * y, x + y), X, X) == 4
    assert moved(lambda x: jnp.broadcast_to(x[0], X), X) == 2


def test_what_a_function_is_wrapped_in_changes_nothing():
    f = lambda x: x / jnp.sum(jax.nn.relu(x))  # relu has a rule for derivatives of its own
    barrier = jax.lax.optimization_barrier
    for wrapped in (f, jax.jit(f), jax.checkpoint(f), lambda x: barrier(f(barrier(x)))):
        assert moved(wrapped, X) == 3


def test_a_barrier_does_not_tie_its_arrays_together():
    """One of x and y is read twice: the other does not go through the sum."""

    def f(x, y):
        x, y = jax.lax.optimization_barrier((x / jnp.sum(x), y + 1))
        return x, y

    assert moved(f, X, X) == 5


def test_what_is_handed_back_costs_nothing():
    assert moved(lambda x, y: (x, y + 1), X, X, donated=1) == 2
    assert moved(lambda x, y: (x, y + 1), X, X) == 4


def test_what_is_not_used_costs_nothing():
    def f(x, y):
        jnp.sum(y * x)
        return x + 1

    assert moved(f, X, X) == 2


def test_reductions_over_one_element_are_none():
    assert moved(lambda x: x / jnp.sum(x[None], axis=0), X) == 2


def test_reductions_of_one_pass_share_it():
    f = lambda x, y: x * jnp.sum(x) * jnp.max(x) * jnp.sum(x * y)
    assert moved(f, X, X) == 4  # x y, then x | x


def test_a_reduction_waits_for_a_pass_that_reads_its_operand():
    """The norm of y is taken in the second pass, which reads y, not in the first."""

    def f(x, y):
        s = jnp.sum(x)
        return y * jnp.sum(jnp.tanh(y * s)) * jnp.sum(y)

    assert moved(f, X, X) == 4  # x, then y, then y | y


def test_what_is_larger_than_its_parts_is_written_and_read():
    assert moved(lambda x, y: x @ y, X, X) == 3
    assert moved(lambda x, y: jnp.tanh(x @ y), X, X) == 5  # x y | x @ y, then (x @ y) | tanh
    assert moved(lambda x: jnp.cumsum(x, axis=0) + 1, X) == 4


def test_a_long_dependence_is_stored_not_computed_again():
    """Computed from the inputs at every step, this would be quadratic."""

    def f(x, *ys):
        for y in ys:
            x = x - jnp.sum(x * y) * y
        return x

    costs = [moved(f, *[X] * (n + 1)) for n in (20, 40, 60)]
    assert costs[2] - costs[1] == pytest.approx(costs[1] - costs[0]) == 80
