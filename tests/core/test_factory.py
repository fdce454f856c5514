"""Objects known by their call: what counts as equal, and what is shown."""

import copy
import functools
import html
import inspect
import pickle
import re
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from gradx.core.hyperparameters import parameters_of
from tests.cases import CASES
from tests.test_every_argument import calls_within


@gx.factory
def clipped_sgd(learning_rate, *norms, scale=None, **rest):
    return gx.chain(*map(gx.clip_by_global_norm, norms), gx.sgd(learning_rate, **rest))


EQUAL = [
    (gx.adamw(1e-3), gx.adamw(learning_rate=1e-3, b1=0.9)),
    (gx.adamw(1), gx.adamw(1.0)),
    (gx.sgd(gx.constant_schedule(0.1)), gx.sgd(gx.constant_schedule(value=0.1))),
    (gx.sgd(jnp.float32(0.1)), gx.sgd(jnp.float32(0.1))),
    (gx.masked(gx.clip(1.0), {"w": True, "b": [False]}), gx.masked(gx.clip(1.0), {"b": [False], "w": True})),
    (gx.chain(gx.clip(1.0), gx.lion(0.1)), gx.chain(gx.clip(1.0), gx.lion(0.1))),
    (gx.inject_hyperparams(gx.sgd, {"nesterov"})(0.1), gx.inject_hyperparams(gx.sgd, {"nesterov"})(0.1)),
    (  # keys that cannot be sorted
        gx.groups(gx.sgd(0.1), {"a": gx.frozen(), re.compile("b"): {}}),
        gx.groups(gx.sgd(0.1), {re.compile("b"): {}, "a": gx.frozen()}),
    ),
    (clipped_sgd(0.1, 1.0, momentum=0.9), clipped_sgd(0.1, 1.0, momentum=0.9, scale=None)),
]
UNEQUAL = [
    (gx.adamw(1e-3), gx.adamw(1e-2)),
    (gx.adam(1e-3), gx.adamw(1e-3)),
    (gx.sgd(0.1), gx.sgd(np.float32(0.1))),  # a different program: the array has a dtype of its own
    (gx.sgd(jnp.float32(0.1)), gx.sgd(jnp.float32(0.2))),
    (gx.sgd(0.1, nesterov=True), gx.sgd(0.1, nesterov=False)),
    (gx.masked(gx.clip(1.0), {"w": True}), gx.masked(gx.clip(1.0), {"w": False})),
    (gx.groups(gx.sgd(0.1), {"a": {}}), gx.groups(gx.sgd(0.1), {re.compile("a"): {}})),
    (gx.masked(gx.clip(1.0), lambda p: True), gx.masked(gx.clip(1.0), lambda p: True)),
    (gx.adam(0.1, b2=0.999), gx.adam(0.1, b2=np.float64(0.999))),
    (gx.identity(), gx.chain()),
    (gx.GradientTransformation(*gx.identity()), gx.identity()),
    (gx.identity(), gx.GradientTransformation(*gx.identity())),
    (gx.constant_schedule(0.1), 0.1),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_calls(a, b):
    assert a == b
    assert hash(a) == hash(b)


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unequal_calls(a, b):
    assert a != b
    assert (a == b) is False


def test_a_tracer_is_equal_to_itself_only():
    def f(x):
        a, b = gx.scale(x), gx.scale(x + 1)
        assert a == gx.scale(x)
        assert a != b
        assert hash(a) == hash(gx.scale(x))
        return x

    jax.jit(f)(1.0)


@pytest.mark.parametrize(
    ("tx", "shown"),
    [
        (
            gx.adamw(1e-3, weight_decay=0.1, mask=gx.matrices_only),
            "adamw(0.001, weight_decay=0.1, mask=matrices_only)",
        ),
        (gx.chain(gx.clip(1.0), optax.sgd(0.1)), "chain(clip(1.0), chain(...))"),
        (gx.named_chain(("a", optax.sgd(0.1))), "named_chain(('a', chain(...)))"),
        (gx.freeze({"w": [True], "b": (False,)}), "freeze({'w': [True], 'b': (False,)})"),
        (clipped_sgd(0.1, 1.0, momentum=0.9), "clipped_sgd(0.1, 1.0, momentum=0.9)"),
        (gx.trace(0.9, accumulator_dtype=jnp.bfloat16), "trace(0.9, accumulator_dtype=bfloat16)"),
        (gx.inject_hyperparams(gx.sgd)(0.1), "inject_hyperparams(sgd)(0.1)"),
        (gx.join_schedules([gx.constant_schedule(1.0)], []), "join_schedules([constant_schedule(1.0)], [])"),
    ],
)
def test_the_repr_is_the_call(tx, shown):
    assert repr(tx) == shown


def test_the_html_is_the_call_over_several_lines():
    rate = gx.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)
    groups = {"(bias|<scale>)$": dict(weight_decay=0.0), "^head/": dict(learning_rate=gx.scaled(10.0))}
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.groups(gx.adamw(rate, weight_decay=0.1), groups))
    page = tx._repr_html_()
    code = html.unescape(re.sub(r"<[^>]*>", "", page))
    assert eval(code, vars(gx) | {"__builtins__": {}}) == tx
    assert max(map(len, code.split("\n"))) <= 80
    assert code.startswith("chain(\n    clip_by_global_norm(1.0),\n    groups(\n        adamw(\n")
    assert '<b title="Adam with decoupled weight decay.">adamw</b>(' in page
    assert "(bias|&lt;scale&gt;)$" in page


def test_a_short_call_is_one_line_of_html():
    assert "\n" not in gx.chain(gx.clip(1.0), gx.sgd(0.1))._repr_html_()
    rules = gx.freeze((False,) * 1)
    assert re.sub(r"<[^>]*>", "", rules._repr_html_()) == repr(rules) == "freeze((False,))"
    assert gx.GradientTransformation(*gx.clip(1.0))._repr_html_() is None  # by hand: Python's own repr


def test_pickle_and_copy_call_again():
    tx = clipped_sgd(gx.linear_schedule(0.1, 0.0, 10), 1.0, momentum=0.9)
    for again in (pickle.loads(pickle.dumps(tx)), copy.copy(tx), copy.deepcopy(tx)):
        assert again == tx
        assert again is not tx


class Rates:
    """An owner of a schedule that cannot be copied."""

    def __init__(self):
        self.lock = threading.Lock()

    def rate(self, step):
        return 0.5


def test_a_copy_keeps_the_functions_that_it_was_given():
    rates = Rates()
    for tx in (
        gx.adamw(rates.rate),
        gx.chain(gx.clip(1.0), gx.sgd(rates.rate)),
        gx.shift_schedule(rates.rate, 1),
    ):
        for again in (copy.copy(tx), copy.deepcopy(tx), copy.deepcopy({"tx": [tx]})["tx"][0]):
            assert again == tx
            assert again is not tx
    by_hand = gx.GradientTransformation(*gx.sgd(rates.rate))
    assert copy.deepcopy(by_hand) == by_hand


def test_a_schedule_has_the_name_of_its_factory():
    rate = gx.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)
    assert rate.__name__ == "warmup_cosine_decay_schedule"
    assert gx.Schedule(falls).__name__ == "falls"
    assert gx.Schedule(functools.partial(falls)).__name__ == "schedule"
    assert functools.wraps(rate)(lambda step: rate(step)).__name__ == rate.__name__
    assert gx.Schedule.__name__ == "Schedule"


def falls(step):
    return 1.0 / (1.0 + step)


def test_an_error_names_the_factory_that_was_called_and_its_argument():
    @gx.factory
    def mine(size, pair=(0.9, 0.99), **rest):
        return gx.chain(gx.clip(1.0), gx.adamw(size, *pair, **rest), gx.clip(2.0))

    for call, says in (
        (
            lambda: gx.adamw(0.1, weight_decay=-0.1),
            "adamw: weight_decay must be at least 0 and finite, got -0.1",
        ),
        (lambda: mine(-0.1), "mine: size must be at least 0 and finite, got -0.1"),
        (lambda: mine(0.1, (0.9, 1.5)), r"mine: pair\[1\] must be between 0 and 1, got 1.5"),
        (lambda: mine(0.1, weight_decay=-0.1), "adamw: weight_decay must be"),  # it names no such argument
        (lambda: gx.adafactor(0.1, eps=-1.0), "adafactor: eps must be"),  # epsilon inside
        (lambda: gx.adam(0.1, b1=(x := 1.5), b2=x), "adam: b1 must be"),
        (lambda: gx.adam(0.1, b1=0.9, b2=(x := 1.5), eps=x), "adam: b2 must be"),
        (lambda: gx.groups(gx.sgd(0.1), {"a": dict(learning_rate=-1.0)}), "sgd: learning_rate must be"),
        (lambda: gx.inject_hyperparams(gx.adamw)(0.1, b1=-1.0), "adamw: b1 must be"),
    ):
        with pytest.raises(ValueError, match=f"^{says}") as caught:
            call()
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), type(again)) == (str(caught.value), type(caught.value))
        assert caught.value.__suppress_context__
    with pytest.raises(TypeError, match=r"^sgd: learning_rate must be a number, .* got 'x'"):
        gx.sgd("x")
    with pytest.raises(TypeError, match=r"^adamw: learning_rate is a stateful schedule"):
        gx.adamw(gx.reduce_on_plateau(0.1))


@gx.factory
def maybe_clipped(tx, max_norm=None):
    return tx if max_norm is None else gx.chain(gx.clip_by_global_norm(max_norm), tx)


def test_a_factory_may_return_what_it_was_given():
    tx = gx.sgd(0.1)
    assert repr(maybe_clipped(tx)) == "maybe_clipped(sgd(0.1))"
    assert repr(tx) == "sgd(0.1)"


def test_a_factory_returns_something_of_gradx():
    with pytest.raises(TypeError, match=r"returned .* wrap a foreign transformation in gradx.chain"):
        gx.factory(lambda: optax.sgd(0.1))()


def test_made_by_hand_it_is_like_any_tuple():
    tx = gx.GradientTransformation(*gx.identity())
    assert tx == gx.GradientTransformation(*tx)
    assert len({tx, gx.GradientTransformation(*tx)}) == 1
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


def test_the_decorator_keeps_name_signature_and_docstring():
    assert gx.adamw.__name__ == "adamw"
    assert inspect.signature(gx.adamw).parameters["b2"].default == 0.999
    assert gx.adamw.__doc__.startswith("Adam with decoupled weight decay")


def test_what_the_caller_changes_afterwards_does_not_change_what_was_made():
    boundaries, scales, mask, rate = [10], {5: 0.5}, {"w": True}, np.array(0.1)
    joined = gx.join_schedules([gx.constant_schedule(1.0), gx.constant_schedule(2.0)], boundaries)
    steps = gx.piecewise_constant_schedule(1.0, scales)
    masked, sgd = gx.masked(gx.scale(2.0), mask), gx.sgd(rate)
    boundaries[0], scales[2], mask["w"], rate[...] = 20, 0.1, False, 0.9
    assert joined(15) == 2.0
    assert steps(3) == 1.0
    w = {"w": jnp.ones(1)}
    assert masked.update(w, masked.init(w))[0]["w"] == 2.0
    np.testing.assert_allclose(sgd.update(w, sgd.init(w))[0]["w"], -0.1, rtol=1e-6)
    assert joined != gx.join_schedules([gx.constant_schedule(1.0), gx.constant_schedule(2.0)], boundaries)
    assert masked != gx.masked(gx.scale(2.0), mask)


@pytest.mark.parametrize("call", [lambda: gx.adam(), lambda: gx.adam(0.1, lr=1), lambda: gx.sgd(*range(6))])
def test_wrong_arguments_are_refused_at_once(call):
    with pytest.raises(TypeError, match="argument"):
        call()


def calls_of(make):
    """How many functions a call calls, in Python and in C."""
    calls = []
    sys.setprofile(lambda frame, event, what: calls.append(event) if event.endswith("call") else None)
    try:
        make()
    finally:
        sys.setprofile(None)
    return len(calls)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("schedule", [None, gx.cosine_decay_schedule(0.1, 10)], ids=["number", "schedule"])
def test_to_make_an_optimizer_takes_few_calls(case, schedule):
    """85 for each factory in it take about 15 µs; to trace a schedule or to read a signature takes more."""
    peak = {"max_learning_rate": 1.0} if schedule and "decay_mode" in case.kwargs else {}
    rate = {case.rate: schedule} if schedule else {}
    make = functools.partial(case.optimizer, **case.kwargs | rate | peak)
    factories = {id(call) for call in calls_within(make())}
    assert calls_of(make) <= 85 * len(factories)


def test_the_parameters_of_a_function_are_its_own():
    """They are kept by its code, and one code may have other defaults."""

    def of(**defaults):
        def rule(g, p=1, *, b1=2, b2):
            return g, p, b1, b2

        rule.__defaults__ = defaults.get("positional", rule.__defaults__)
        rule.__kwdefaults__ = defaults.get("named", rule.__kwdefaults__)
        return rule

    own = {"g": True, "p": False, "b1": False, "b2": True}
    for _ in range(2):
        assert parameters_of(of()) == own
        assert parameters_of(of(positional=())) == own | {"p": True}
        assert parameters_of(of(named={"b2": 3})) == own | {"b1": True, "b2": False}
    wrapped = functools.wraps(of())(lambda *args, **kwargs: None)
    assert parameters_of(wrapped) == own
    assert parameters_of(lambda *args, **kwargs: None) == {"args": True, "kwargs": True}
    assert parameters_of(functools.partial(of(), 0)) == {"p": False, "b1": False, "b2": True}
    assert parameters_of(None) == {}
