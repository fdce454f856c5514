"""Lengths in epochs and shares of a run; learning rates for other batch sizes."""

import math
import pickle

import numpy as np
import pytest

import gradx as gx


def test_lengths_are_whole_steps():
    run = gx.Run(epochs=90, steps_per_epoch=1251)
    assert (run.steps, run.epochs(5), run.epochs(0.5), run.fraction(0.1)) == (112590, 6255, 626, 11259)
    lengths = [run.steps, run.epochs(2.5), run.fraction(1 / 3), run.fraction(0), run.fraction(1.0)]
    assert {type(n) for n in lengths} == {int}
    assert gx.Run(2.5, 11).steps == round(27.5)
    assert gx.Run(steps=1000).fraction(0.05) == 50
    assert gx.Run(steps=np.int64(1000), steps_per_epoch=100).epochs(3) == 300
    assert [gx.Run(steps=100).fraction(i / 100) for i in range(101)] == list(range(101))


def test_a_schedule_over_a_run():
    run = gx.Run(steps=200)
    schedule = gx.warmup_cosine_decay_schedule(0.0, 1.0, run.fraction(0.05), run.steps)
    np.testing.assert_allclose(
        [schedule(0), schedule(10), schedule(105), schedule(200)], [0, 1, 0.5, 0], atol=1e-7
    )


def test_equal_runs_are_equal():
    run = gx.Run(epochs=2, steps_per_epoch=50)
    assert run == gx.Run(steps=100, steps_per_epoch=50) == pickle.loads(pickle.dumps(run))
    assert run != gx.Run(steps=100)
    assert hash(run) == hash(eval(repr(run), {"Run": gx.Run}))
    assert repr(run) == "Run(steps=100, steps_per_epoch=50)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gx.Run(), TypeError, "give either epochs and steps_per_epoch, or steps"),
        (lambda: gx.Run(5, 10, steps=50), TypeError, "give either epochs and steps_per_epoch, or steps"),
        (lambda: gx.Run(epochs=5), TypeError, "epochs have a length only with steps_per_epoch"),
        (lambda: gx.Run(5, 10.5), TypeError, "steps_per_epoch must be an integer, got 10.5: round it as"),
        (lambda: gx.Run(5, 0), ValueError, "steps_per_epoch must be at least 1, got 0"),
        (lambda: gx.Run(0, 10), ValueError, "the number of steps must be at least 1, got 0"),
        (lambda: gx.Run(-1, 10), ValueError, "epochs must be at least 0 and finite, got -1"),
        (lambda: gx.Run(steps=1e4), TypeError, "the number of steps must be an integer, got 10000.0"),
        (lambda: gx.Run(steps=100).epochs(1), TypeError, "epochs have a length only with steps_per_epoch"),
        (lambda: gx.Run(steps=100).fraction(5), ValueError, "a fraction must be between 0 and 1, got 5"),
        (lambda: gx.Run(5, 10).epochs(math.nan), ValueError, "epochs must be at least 0 and finite, got nan"),
    ],
)
def test_mistakes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_rules_for_the_batch_size():
    assert gx.scale_learning_rate(0.1, 8192) == 0.1 * 32  # Goyal et al. 2017: 3.2
    np.testing.assert_allclose(gx.scale_learning_rate(0.1, 1024, rule="sqrt"), 0.2)
    np.testing.assert_allclose(gx.scale_learning_rate(1e-3, 128, 512), 2.5e-4)
    schedule = gx.scale_learning_rate(gx.linear_schedule(0.1, 0.0, 10), 512)
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(10)], [0.2, 0.1, 0.0], rtol=1e-6)
    assert schedule == gx.scale_learning_rate(gx.linear_schedule(0.1, 0.0, 10), 512)
    with pytest.raises(ValueError, match="rule must be 'linear' or 'sqrt', got 'square'"):
        gx.scale_learning_rate(0.1, 512, rule="square")
    with pytest.raises(ValueError, match="scale_learning_rate: batch_size must be at least 1, got 0"):
        gx.scale_learning_rate(0.1, 0)
