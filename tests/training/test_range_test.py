"""`lr_range_test`: its losses against a loop in NumPy, where it stops, what it suggests, and its plot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import gradx as gx

# Half of the sum of these times the squares of x: steps above 2 / 4 go up the other side.
CURVATURES = np.array([4.0, 1.0, 0.25])
BATCHES = np.random.default_rng(0).standard_normal((7, 3)) * 0.1
X = np.array([1.0, -1.0, 2.0])


def loss(x, batch):
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES, x.dtype) * (x - batch) ** 2)


def reference(steps, min_lr, max_lr, smoothing, divergence):
    """The same with SGD, as a loop."""
    x, mean, least, losses, smoothed = X.copy(), 0.0, np.inf, [], []
    rates = min_lr * (max_lr / min_lr) ** (np.arange(steps) / (steps - 1))
    for i, rate in enumerate(rates):
        apart = x - BATCHES[i % len(BATCHES)]
        losses.append(0.5 * np.sum(CURVATURES * apart**2))
        x = x - rate * CURVATURES * apart
        mean = smoothing * mean + (1 - smoothing) * losses[-1]
        smoothed.append(mean / (1 - smoothing ** (i + 1)))
        least = min(least, smoothed[-1])
        if smoothed[-1] > divergence * least:
            break
    return rates[: len(losses)], np.array(losses), np.array(smoothed)


def test_the_first_tenth_has_no_slope_yet():
    falls = np.zeros(20)
    falls[2], falls[3], falls[9] = 5.0, 2.0, 1.0  # from the element before
    rates = np.geomspace(1e-3, 1.0, 20)
    found = gx.RangeTest(rates, np.zeros(20), 10 - np.cumsum(falls), False)
    assert found.steepest == rates[2]


@pytest.mark.parametrize(("smoothing", "divergence"), [(0.95, 4.0), (0.5, 2.0), (0.0, 10.0)])
def test_is_the_loop(smoothing, divergence, x64):
    options = dict(smoothing=smoothing, divergence=divergence)
    found = gx.lr_range_test(loss, gx.sgd, X, BATCHES, 1e-3, 10.0, 60, **options)
    rates, losses, smoothed = reference(60, 1e-3, 10.0, smoothing, divergence)
    assert found.diverged
    assert len(rates) < 60
    np.testing.assert_allclose(found.learning_rates, rates, rtol=1e-12)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)
    np.testing.assert_allclose(found.smoothed, smoothed, rtol=1e-9)
    assert all(isinstance(x, np.ndarray) for x in (found.learning_rates, found.losses, found.smoothed))


@pytest.mark.parametrize("largest", [1.0, 30.0])
def test_diverges_beyond_the_stable_rate(largest):
    """Which is 2 / L for the largest curvature L: what noise there is grows from there on."""
    noise = np.random.default_rng(0).choice([-0.1, 0.1], (100, 1)) / largest**0.5
    quadratic = lambda x, batch: 1.0 + 0.5 * (largest * (x[0] - batch[0]) ** 2 + x[1] ** 2)
    found = gx.lr_range_test(
        quadratic, gx.sgd, jnp.zeros(2), noise, 0.01 / largest, 10 / largest, 700, smoothing=0.0
    )
    assert found.diverged
    assert 2 / largest < found.learning_rates[-1] < 2.5 / largest


def test_suggestions_are_those_of_their_definitions():
    falling = [9.0, 5.0, 5.0, *np.linspace(5, 4, 10), 2.0, *np.linspace(2, 1, 10)]
    after = [8.0, 9.0, 3.0, 6.0, 7.0, 8.0, 9.0]
    found = gx.RangeTest(np.geomspace(1e-3, 1.0, 31), np.zeros(31), np.array(falling + after), True)
    # Not its first fall, of means that have not settled, nor the one after a spike.
    assert found.steepest == found.learning_rates[12]
    np.testing.assert_allclose(found.minimum_tenth, found.learning_rates[23] / 10)
    assert found.suggestion == min(found.steepest, found.minimum_tenth)
    rising = gx.RangeTest(np.geomspace(1e-3, 1.0, 4), np.arange(4.0), np.arange(4.0), True)
    assert (rising.steepest, rising.minimum_tenth) == (1e-3, 1e-4)
    assert repr(rising) == (
        "RangeTest: suggestion 0.0001, steepest 0.001, minimum / 10 0.0001; 4 steps from 0.001 to 1, diverged"
    )


TRANSFORMATIONS = [
    gx.sgd(0.3),
    gx.sgd(gx.cosine_decay_schedule(0.1, 10)),
    gx.chain(gx.clip(1e9), gx.chain(gx.scale(1.0), gx.scale_by_learning_rate(0.3))),
    gx.named_chain(("first", gx.identity()), ("sgd", gx.sgd(0.3))),
    gx.masked(gx.sgd(0.3), True),
    gx.packed(gx.sgd(0.3)),
    gx.lookahead(gx.sgd(0.3), 1, 1.0),
    gx.inject_hyperparams(gx.sgd)(0.3),
    gx.chain(gx.inject_hyperparams(gx.sgd)(gx.reduce_on_plateau(0.3))),
    lambda rate: gx.inject_hyperparams(gx.sgd)(rate),
    lambda rate: gx.chain(gx.clip(1e9), gx.scale(-rate)),
    functools.partial(gx.sgd, momentum=None),
    optax.sgd,
    lambda rate: optax.inject_hyperparams(optax.sgd)(rate),
]


@pytest.mark.parametrize(
    "tx", TRANSFORMATIONS, ids=lambda tx: repr(tx) if isinstance(tx, gx.GradientTransformation) else ""
)
def test_the_learning_rate_is_replaced_wherever_it_is(tx, lenient):
    found = gx.lr_range_test(loss, tx, X, BATCHES, 1e-3, 1.0, 20)
    np.testing.assert_allclose(found.losses, reference(20, 1e-3, 1.0, 0.95, 4.0)[1], rtol=1e-4)


def test_rules_that_use_the_rate_twice_are_followed():
    """Decay that is corrected by the rate, not only scaled by it, as a function and as a transformation."""
    kwargs = dict(weight_decay=0.1, decay_mode="corrected", max_learning_rate=1.0)
    one = gx.lr_range_test(loss, functools.partial(gx.adamw, **kwargs), X, BATCHES, 1e-3, 1.0, 20)
    two = gx.lr_range_test(loss, gx.adamw(0.1, **kwargs), X, BATCHES, 1e-3, 1.0, 20)
    np.testing.assert_array_equal(one.losses, two.losses)
    x = jnp.asarray(X, jnp.float32)
    tx = gx.adamw(gx.exponential_decay(1e-3, 19, 1e3), **kwargs)
    state = tx.init(x)
    for i in range(20):
        value, g = jax.value_and_grad(loss)(x, jnp.asarray(BATCHES[i % 7], jnp.float32))
        np.testing.assert_allclose(one.losses[i], value, rtol=1e-4)
        updates, state = tx.update(g, state, x)
        x = gx.apply_updates(x, updates)


def test_parameters_are_left_as_they_are():
    params = {"w": jnp.ones(3), "none": None, "half": jnp.ones(2, jnp.bfloat16)}
    before = jax.tree.map(lambda x: np.array(x, float), params)
    quadratic = lambda p, batch: jnp.sum(p["w"] ** 2) + jnp.sum(p["half"].astype(jnp.float32) ** 2) + batch
    gx.lr_range_test(quadratic, gx.adamw, params, jnp.zeros(2), steps=10)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x, float), y), params, before)


def test_extra_arguments_and_aux_are_passed():
    """A rule that needs the value, and one that needs the function, from a loss with something beside it."""
    with_aux = lambda x, batch: (loss(x, batch), {"x": x})
    line = lambda rate: gx.chain(gx.scale(-rate), gx.scale_by_backtracking_linesearch(5))
    for tx in (lambda rate: gx.polyak_sgd(scaling=rate), line):
        found = gx.lr_range_test(with_aux, tx, X, BATCHES, 1e-2, 1.0, 12, has_aux=True)
        assert len(found.losses) == 12
        assert found.losses[-1] < found.losses[0] / 2


def test_batches_from_an_iterator_are_as_many_as_there_are_steps():
    taken = []

    def stream():
        for i in range(1000):
            taken.append(i)
            yield BATCHES[i % 7]

    found = gx.lr_range_test(loss, gx.sgd, X, stream(), 1e-3, 1.0, 20)
    assert len(taken) == 20
    np.testing.assert_allclose(found.losses, reference(20, 1e-3, 1.0, 0.95, 4.0)[1], rtol=1e-4)
    few = gx.lr_range_test(loss, gx.sgd, X, iter(BATCHES[:1]), 1e-3, 1.0, 20)
    assert len(few.losses) == 20


def test_a_loss_below_zero_does_not_diverge_by_falling():
    found = gx.lr_range_test(lambda x, batch: loss(x, batch) - 100.0, gx.sgd, X, BATCHES, 1e-3, 10.0, 40)
    assert len(found.losses) > 25
    assert found.diverged


def test_what_comes_after_a_divergence_is_not_computed():
    seen = []

    def counted(x, batch):
        jax.debug.callback(lambda: seen.append(1))
        return loss(x, batch)

    found = gx.lr_range_test(counted, gx.sgd, X, BATCHES, 1e-3, 1e3, 60, smoothing=0.0)
    jax.effects_barrier()
    assert len(seen) == len(found.losses) < 45


def test_a_loss_that_overflows_is_cut():
    cliff = lambda x, batch: jnp.where(jnp.abs(x) < 1.5, x**2, jnp.nan)
    found = gx.lr_range_test(cliff, lambda rate: gx.scale(rate), 1.0, jnp.zeros(1), 1e-3, 1.0, 30)
    assert found.diverged
    assert np.isfinite(found.losses).all()
    assert len(found.losses) < 30


def test_equal_calls_compile_once():
    traced = []

    def counted(x, batch):
        traced.append(1)
        return loss(x, batch)

    counts = []
    for _ in range(2):
        gx.lr_range_test(counted, gx.sgd(0.1), X, BATCHES, 1e-3, 1.0, 20)
        counts.append(len(traced))
    assert counts[1] - counts[0] == 1  # for the check of what it gives


def test_plot():
    found = gx.lr_range_test(loss, gx.sgd, X, BATCHES, 1e-3, 10.0, 60)
    ax = Figure().subplots()
    assert found.plot(ax) is ax
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "learning rate (log scale)", "loss")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    expected = [f"steepest: {found.steepest:.2g}", f"minimum / 10: {found.minimum_tenth:.2g}"]
    assert labels == ["loss", "smoothed", *expected]
    markers = [line.get_marker() for line in ax.get_lines()[2:]]
    assert len(set(markers)) == 2  # to be told apart without colours
    colors = [line.get_color() for line in ax.get_lines()]
    assert colors == ["0.6", "black", "white", "white"]
    assert [line.get_linestyle() for line in ax.get_lines()[:2]] == ["None", "-"]
    assert found.smoothed[0] < ax.get_ylim()[1] < 0.6 * found.losses.max()  # the end may go off


def test_plot_makes_axes_of_its_own(monkeypatch):
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    ax = gx.lr_range_test(loss, gx.sgd, X, BATCHES, 1e-3, 10.0, 60).plot()
    assert ax.figure.number in plt.get_fignums()
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(min_lr=0.0), ValueError, "lr_range_test: min_lr must be more than 0 and finite, got 0"),
        (dict(min_lr=1.0, max_lr=1.0), ValueError, "max_lr must be more than min_lr, got 1.0 and 1.0"),
        (dict(max_lr="1"), TypeError, "lr_range_test: max_lr must be a number"),
        (dict(steps=1), ValueError, "lr_range_test: steps must be at least 2, got 1"),
        (dict(steps=0.5), ValueError, "lr_range_test: steps must be an integer of at least 1, got 0.5"),
        (dict(smoothing=1.0), ValueError, "smoothing must be at least 0 and less than 1, got 1"),
        (dict(divergence=1.0), ValueError, "divergence must be more than 1, got 1"),
        (
            dict(batches=jnp.zeros(())),
            ValueError,
            r"batches along their first axes, at least one .*, got axes of",
        ),
        (
            dict(batches=(jnp.zeros((2, 3)), jnp.zeros(3))),
            ValueError,
            r"got axes of {'\[0\]': \(2,\), '\[1\]': \(3,\)}",
        ),
        (dict(batches=jnp.zeros((0, 3))), ValueError, r"got axes of {'': \(0,\)}"),
        (dict(batches=iter([])), ValueError, "got axes of {}"),
        (
            dict(loss_fn=lambda x, batch: x),
            TypeError,
            r"loss_fn must give one real number, .* gave .*\(3,\)",
        ),
        (
            dict(loss_fn=lambda x, batch: (loss(x, batch), 1)),
            TypeError,
            "or .number, anything. with has_aux=True, and",
        ),
        (
            dict(loss_fn=lambda x, batch: jnp.log(-x[2])),
            ValueError,
            "the loss is not finite at the parameters given",
        ),
        (
            dict(loss_fn=lambda x, batch: -jnp.log(0 * x[0])),
            ValueError,
            "loss is not finite at the parameters",
        ),
        (
            dict(loss_fn=lambda x, batch: jnp.log(2.0 - x[2]), params=jnp.ones(3), min_lr=2.0),
            ValueError,
            "the loss is not finite after a step at 2",
        ),
        (
            dict(tx=gx.chain(gx.scale_by_adam(), gx.scale(-0.1))),
            ValueError,
            r"chain\(scale_by_adam\(\), scale\(-0.1\)\) has no visible learning rate: give a function of "
            r"the rate to test, such as gradx.adamw or lambda rate",
        ),
        (dict(tx=optax.sgd(0.1)), ValueError, "has no visible learning rate: give a function"),
        (
            dict(tx=gx.chain(gx.sgd(0.1), gx.sgd(0.2))),
            ValueError,
            r"chain\(sgd\(0.1\), sgd\(0.2\)\) has the learning rates 0.1, 0.2: give a function",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_wrong_is_named(kwargs, error, message, lenient):
    given = dict(loss_fn=loss, tx=gx.sgd, params=X, batches=BATCHES) | kwargs
    with pytest.raises(error, match=message):
        gx.lr_range_test(**given)
