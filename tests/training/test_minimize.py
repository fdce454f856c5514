"""minimize: against SciPy on Rosenbrock's function and a fit, and each way to end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import gradx as gx
from gradx.training.minimize import run

Status = gx.Status
BACKTRACKING = gx.chain(gx.scale(-1.0), gx.scale_by_backtracking_linesearch(30, store_grad=True))


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def square(x):
    return jnp.sum((x - 3) ** 2)


# One function with the scale as an argument is compiled once for all scales.
def scaled_rosenbrock(x, scale):
    return scale * rosenbrock(x)


def scaled_square(x, scale):
    return scale * square(x)


def scaled_sum(x, scale):
    return scale * jnp.sum(x)


ROSENBROCK = np.tile([-1.2, 1.0], 5)


class Counted:
    """A function that counts how often it is really evaluated, on the host."""

    def __init__(self, fun):
        self.fun, self.calls = fun, 0

    def count(self):
        self.calls += 1

    def __call__(self, x, *args):
        jax.debug.callback(self.count)
        return self.fun(x, *args)


def test_rosenbrock_in_at_most_half_more_evaluations_than_scipy(x64):
    """10 dimensions, to 1e-8; SciPy's L-BFGS-B is at its defaults."""
    theirs = scipy.optimize.minimize(
        scipy.optimize.rosen, ROSENBROCK, jac=scipy.optimize.rosen_der, method="L-BFGS-B"
    )
    found = gx.minimize(rosenbrock, ROSENBROCK)
    assert theirs.fun <= 1e-8
    assert found.value <= 1e-8
    assert int(found.evaluations) <= 1.5 * theirs.nfev
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "tx",
    [
        gx.lbfgs(),
        gx.lbfgs(linesearch=gx.scale_by_backtracking_linesearch(30)),
        gx.lbfgs(linesearch=gx.scale_by_backtracking_linesearch(30, store_grad=True)),
        optax.lbfgs(memory_size=5),
        gx.adam(0.01),
    ],
    ids=["zoom", "backtracking", "with the gradient", "optax", "adam"],
)
def test_evaluations_are_counted_honestly(tx, x64):
    """As the function counts them itself."""
    fun = Counted(rosenbrock)
    with jax.numpy_dtype_promotion("standard"):
        found = gx.minimize(fun, ROSENBROCK, tx=tx, max_steps=30)
    jax.effects_barrier()
    assert found.steps == 30
    assert found.evaluations == fun.calls
    np.testing.assert_allclose(found.value, rosenbrock(found.x), rtol=1e-12)
    norm = jnp.max(jnp.abs(jax.grad(rosenbrock)(found.x)))
    np.testing.assert_allclose(found.grad_norm, norm, rtol=1e-12)


def curve(p, x):
    return p["a"] * jnp.exp(-p["b"] * x) + p["c"] * jnp.sin(p["d"] * x + p["e"])


def misfit(p, x, y):
    return jnp.sum((curve(p, x) - y) ** 2)


TRUE = {"a": 2.0, "b": 0.7, "c": 0.5, "d": 3.0, "e": 0.3}
GUESS = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 2.8, "e": 0.0}


def data():
    x = np.linspace(0.0, 5.0, 80)
    noise = 0.05 * np.random.default_rng(0).standard_normal(80)
    return x, np.asarray(curve(TRUE, x)) + noise


def test_fits_a_curve_as_scipy_does(x64):
    """Five parameters, a dict of Python floats: SciPy's least-squares optimum, to 1e-6."""
    x, y = data()
    found = gx.minimize(misfit, GUESS, (x, y), tol=1e-8)
    assert found.status == Status.CONVERGED
    residuals = lambda v: np.asarray(curve(dict(zip("abcde", v, strict=True)), x)) - y
    theirs = scipy.optimize.least_squares(residuals, list(GUESS.values()), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    np.testing.assert_allclose([found.x[k] for k in "abcde"], theirs.x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.value, 2 * theirs.cost, rtol=1e-10)


def test_fits_a_curve_in_float32():
    x, y = data()
    found = gx.minimize(misfit, GUESS, (x, y), tol=1e-4)
    assert found.status == Status.CONVERGED
    assert {v.dtype for v in found.x.values()} == {jnp.dtype("float32")}
    for k, v in TRUE.items():
        assert abs(found.x[k] - v) < 0.1


@pytest.mark.parametrize(
    ("tx", "steps"),
    [
        (gx.lbfgs(), 10),
        (gx.lbfgs(0.5, linesearch=None), 100),
        (gx.adam(gx.cosine_decay_schedule(0.3, 500)), 500),
        (gx.polyak_sgd(), 100),
        (gx.chain(gx.clip_by_global_norm(1.0), optax.sgd(0.3)), 100),
        (BACKTRACKING, 50),
        (gx.lookahead(gx.sgd(0.3), 3), 100),
    ],
    ids=repr,
)
def test_any_optimizer_will_do(tx, steps):
    with jax.numpy_dtype_promotion("standard"):
        found = gx.minimize(square, jnp.zeros(3), tx=tx, tol=1e-3, max_steps=steps)
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, 3.0, atol=1e-3)


def test_already_at_the_minimum():
    found = gx.minimize(square, jnp.full(2, 3.0))
    assert (found.steps, found.evaluations, found.status) == (0, 1, Status.CONVERGED)
    assert found.message.startswith("converged")


@pytest.mark.parametrize("limit", [0, 1])
def test_the_step_limit(limit):
    found = gx.minimize(rosenbrock, jnp.zeros(4), max_steps=limit)
    assert (found.steps, found.status) == (limit, Status.STEP_LIMIT)
    assert found.evaluations >= 1 + limit
    assert "max_steps" in found.message
    np.testing.assert_allclose(found.value, rosenbrock(found.x), rtol=1e-6)


def test_not_finite_at_the_start():
    found = gx.minimize(lambda x: jnp.sum(jnp.log(x)), -jnp.ones(2))
    assert (found.steps, found.status) == (0, Status.NOT_FINITE)
    np.testing.assert_array_equal(found.x, -1.0)
    assert "not finite" in found.message


def test_not_finite_on_the_way():
    """Gradient descent that blows up ends at its last finite point, and says so."""
    found = gx.minimize(lambda x: jnp.sum(x**4), jnp.full(2, 10.0), tx=gx.sgd(1.0))
    assert found.status == Status.NOT_FINITE
    assert jnp.isfinite(found.value) & jnp.isfinite(found.grad_norm) & jnp.all(jnp.isfinite(found.x))
    assert found.steps < 20


def test_a_line_search_stays_where_the_function_is_finite(x64):
    """x - log x: the first step from 0.01 would lead far past 0; the minimum is 1."""
    found = gx.minimize(lambda x: jnp.sum(x - jnp.log(x)), jnp.array([5.0, 0.01]))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, 1.0, rtol=1e-4)


@jax.custom_vjp
def wrong(x):
    return jnp.sum(x**2)


wrong.defvjp(lambda x: (wrong(x), x), lambda x, ct: (-2 * ct * x,))


def test_stalled():
    """A gradient of the wrong sign: no step goes down. x is not made worse."""
    for tx in (None, BACKTRACKING):
        found = gx.minimize(wrong, jnp.array([1.0, -2.0]), tx=tx)
        assert found.status == Status.STALLED
        np.testing.assert_array_equal(found.x, [1.0, -2.0])
        assert found.steps <= 5
        assert "is the gradient right?" in found.message


def test_a_tolerance_below_the_dtype_ends_at_the_rounding_errors():
    found = gx.minimize(rosenbrock, ROSENBROCK, tol=0.0)
    assert found.status in (Status.STALLED, Status.CONVERGED)
    assert found.value < 1e-9
    assert found.steps < 150


def test_a_rate_that_starts_at_zero_is_no_stall():
    rate = gx.warmup_constant_schedule(0.0, 0.3, 20)
    found = gx.minimize(square, jnp.zeros(2), tx=gx.sgd(lambda step: rate(jnp.maximum(step - 10, 0))))
    assert found.status == Status.CONVERGED
    assert found.steps > 11


def test_equal_calls_compile_once():
    before = run._cache_size()
    for x in (1.0, 2.0):
        gx.minimize(square, jnp.full(7, x), tx=gx.lbfgs(memory_size=4), tol=1e-3 * x, max_steps=int(10 * x))
    assert run._cache_size() == before + 1


def test_under_jit_and_vmap():
    starts = jnp.array([[0.0, 0.0], [5.0, -1.0], [3.0, 3.0]])
    solve = functools.partial(gx.minimize, square)
    together = jax.jit(jax.vmap(solve))(starts)
    for i, x0 in enumerate(starts):
        alone = gx.minimize(square, x0)
        np.testing.assert_allclose(together.x[i], alone.x, rtol=1e-5)
        assert together.evaluations[i] == alone.evaluations
        assert together.status[i] == Status.CONVERGED


def test_trees_dtypes_and_missing_leaves():
    x0 = [1, np.float32(2.0), {"a": jnp.ones(2, jnp.bfloat16), "none": None}]
    found = gx.minimize(lambda x: (x[0] - 1.5) ** 2 + x[1] ** 2 + jnp.sum(x[2]["a"] ** 2), x0)
    assert found.status == Status.CONVERGED
    assert jax.tree.structure(found.x) == jax.tree.structure(x0)
    assert {x.dtype for x in jax.tree.leaves(found.x)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found.x[0], 1.5, atol=1e-5)


def test_float32_among_float64(x64):
    with jax.numpy_dtype_promotion("standard"):
        x0 = [jnp.ones(2, jnp.float32), jnp.ones(3, jnp.float64)]
        found = gx.minimize(lambda x: jnp.sum(x[0] ** 2) + jnp.sum(x[1] ** 4), x0)
    assert [x.dtype for x in found.x] == [jnp.float32, jnp.float64]
    assert found.status == Status.CONVERGED


def test_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"fun must give one real number, and gave .*\(2,\)"):
        gx.minimize(lambda x: x, jnp.ones(2))
    with pytest.raises(TypeError, match="fun must give one real number"):
        gx.minimize(lambda x: (jnp.sum(x), x), jnp.ones(2))
    with pytest.raises(TypeError, match="args must be a tuple, got ndarray: write"):
        gx.minimize(lambda x, y: jnp.sum(x * y), jnp.ones(2), np.ones(2))
    with pytest.raises(TypeError, match="x0 must be real"):
        gx.minimize(lambda x: jnp.abs(x), 1j)
    with pytest.raises(ValueError, match="x0 holds no arrays"):
        gx.minimize(lambda x: 0.0, {})
    with pytest.raises(ValueError, match="tol must be at least 0 and finite, got -1"):
        gx.minimize(square, jnp.ones(1), tol=-1.0)
    with pytest.raises(ValueError, match="max_steps must be at least 0 and below"):
        gx.minimize(square, jnp.ones(1), max_steps=-1)
    with pytest.raises(TypeError, match="tx of minimize is not a gradient transformation"):
        gx.minimize(square, jnp.ones(1), tx=gx.adam)


SCALED = pytest.mark.parametrize("scale", [1e20, 1e6, 1e-6, 1e-20])


@SCALED
@pytest.mark.parametrize("tx", [None, gx.lbfgs(linesearch=gx.scale_by_backtracking_linesearch(30))], ids=repr)
def test_the_scale_of_the_function_does_not_matter(scale, tx):
    """In float32, whose squares end at 1e38: as many steps, or a few more, to the same minimum."""
    x0 = ROSENBROCK[:4]
    found = gx.minimize(scaled_rosenbrock, x0, (1.0,), tx=tx, tol=1e-2)
    scaled = gx.minimize(scaled_rosenbrock, x0, (scale,), tx=tx, tol=1e-2 * scale)
    assert found.status == scaled.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, 1.0, atol=1e-2)
    np.testing.assert_allclose(scaled.x, 1.0, atol=1e-2)
    assert scaled.steps <= found.steps + 10
    value, grad = jax.value_and_grad(rosenbrock)(scaled.x)
    np.testing.assert_allclose(scaled.value, scale * value, rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(scaled.grad_norm, scale * jnp.max(jnp.abs(grad)), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("scale", [1e20, 1.0, 1e-20])
def test_a_line_search_of_another_optimizer(scale):
    tx = gx.chain(gx.scale(-1.0), gx.scale_by_zoom_linesearch(30))
    found = gx.minimize(scaled_square, jnp.zeros(3), (scale,), tx=tx, tol=1e-4 * scale, max_steps=100)
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, 3.0, atol=1e-4)


@pytest.mark.slow
def test_a_power_of_two_changes_no_bit():
    """Above the usual range, where the unit is divided out, and within it."""
    run_of = lambda scale: gx.minimize(scaled_rosenbrock, ROSENBROCK[:4], (scale,), tol=1e-2 * scale)
    usual, large, huge = (run_of(2.0**k) for k in (3, 10, 80))
    assert large.x.tolist() == huge.x.tolist() == usual.x.tolist()
    assert huge.steps == large.steps == usual.steps


def test_a_learning_rate_is_meant_for_the_function_as_it_is():
    one_step = lambda scale: gx.minimize(
        scaled_square, jnp.zeros(1), (scale,), tx=gx.sgd(0.1), tol=0.0, max_steps=1
    )
    np.testing.assert_allclose(one_step(1.0).x, 0.6, rtol=1e-6)
    np.testing.assert_allclose(one_step(1e-20).x, 0.6e-20, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, jnp.nan, jnp.inf, 1e-45])
def test_slopes_without_a_scale(value):
    found = gx.minimize(scaled_sum, jnp.ones(2), (value,), tol=0.0, max_steps=2)
    expected = {0.0: Status.CONVERGED, 1e-45: Status.CONVERGED}.get(value, Status.NOT_FINITE)
    assert found.status == expected
    assert found.x.tolist() == [1.0, 1.0]


def in_parts(x):
    return rosenbrock(x["a"]) + jnp.sum((x["b"] - 7.0) ** 2)


@pytest.mark.parametrize("other", [gx.frozen(), gx.sgd(0.3), gx.lbfgs()], ids=repr)
def test_groups(other):
    """L-BFGS for a part; what is frozen counts for nothing, what moves must converge too."""
    x0 = {"a": ROSENBROCK[:4], "b": jnp.zeros(2)}
    found = gx.minimize(in_parts, x0, tx=gx.groups(gx.lbfgs(), {"^b": other}), tol=1e-2)
    assert found.status == Status.CONVERGED
    assert found.grad_norm <= 1e-2
    np.testing.assert_allclose(found.x["a"], 1.0, atol=1e-2)
    np.testing.assert_allclose(found.x["b"], 0.0 if other == gx.frozen() else 7.0, atol=1e-2)
    np.testing.assert_allclose(found.value, in_parts(found.x), rtol=1e-5, atol=1e-6)


def test_evaluations_of_a_search_in_a_part_are_counted_honestly():
    fun = Counted(in_parts)
    x0 = {"a": ROSENBROCK[:4], "b": jnp.zeros(2)}
    for other in (gx.frozen(), gx.lbfgs()):
        fun.calls = 0
        found = gx.minimize(fun, x0, tx=gx.groups(gx.lbfgs(), {"^b": other}), tol=0.0, max_steps=5)
        jax.effects_barrier()
        assert found.steps == 5
        assert found.evaluations == fun.calls


def test_a_search_that_stands_still_does_not_end_what_others_do():
    """The search is at its minimum from the first step; SGD goes on."""
    x0 = {"a": jnp.ones(4), "b": jnp.zeros(2)}
    found = gx.minimize(in_parts, x0, tx=gx.groups(gx.lbfgs(), {"^b": gx.sgd(0.05)}), tol=1e-3)
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x["b"], 7.0, atol=1e-3)
