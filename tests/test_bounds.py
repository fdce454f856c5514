"""Both ends of every check, through the factory: the last value in is taken, the first out is not."""

import functools
import inspect
import math
import re
from typing import Any

import pytest

import gradx as gx
from gradx.core.ranges import BOUND, FRACTION, NUMBER, RANGES, Range
from tests.probes import BESIDE, PROBES, found, keys, made_by, space_of, tries
from tests.test_every_argument import IS_FACTORY, ROWS, SCHEDULES, SEARCHES, of, receivers
from tests.test_signatures import ENTRY

LARGEST = 1e38  # about that of float32
above, below = (
    functools.partial(lambda end, x: math.nextafter(x, end), end) for end in (math.inf, -math.inf)
)


def after(x: float) -> float:
    return math.nextafter(x, math.inf)


def before(x: float) -> float:
    return math.nextafter(x, -math.inf)


# Of ranges in words, which `tests/core/test_ranges.py` holds to what they allow: (last in, first out).
ENDS = {
    "at least": lambda x: (x, before(x)),
    "at most": lambda x: (x, after(x)),
    "more than": lambda x: (after(x), x),
    "less than": lambda x: (before(x), x),
}
# Where an argument is passed on by another name than its own and that of `tests.probes.PASSED_AS`.
RANGED_AS = {
    "RMSprop.alpha": FRACTION,
    "clipnorm": BOUND,
    "torch.Adafactor.d": BOUND,
}
# Arguments beside one at its ends, where these are not allowed beside the others' usual values.
TOGETHER: dict[str, dict[str, Any]] = {
    "dynamic_loss_scale.init_scale": dict(min_scale=5e-324, max_scale=LARGEST),
    "dynamic_loss_scale.max_scale": dict(min_scale=5e-324, init_scale=5e-324),
    "dynamic_loss_scale.min_scale": dict(init_scale=LARGEST, max_scale=LARGEST),
    "inverse_sqrt_schedule.warmup_steps": dict(timescale=1.0),
    "keras.Adafactor.weight_decay": dict(learning_rate=0.0),
    "keras.Lamb.weight_decay": dict(learning_rate=0.0),
    "min_step_size": dict(max_step_size=math.inf),
    "warmup_cosine_decay_schedule.decay_steps": dict(warmup_steps=0),
}
# Integers, by the least that is allowed.
INTEGERS = {
    "every": 1,
    "every_k_schedule": 1,
    "growth_interval": 1,
    "max_backtracking_steps": 1,
    "max_consecutive": 1,
    "max_linesearch_steps": 1,
    "max_size": 1,
    "memory_size": 1,
    "min_size": 1,
    "num_layers": 1,
    "sync_period": 1,
    "warmup": 2,
    "window": 2,
}
# Arguments of `at_least`, by the least that is allowed: most are steps, and so below 2**31.
LEAST = {
    "T_0": 1,
    "T_max": 1,
    "T_mult": 1,
    "accumulation_size": 1,
    "cooldown": 0,
    "decay_steps": 1,
    "early_stopping.min_delta": 0,
    "early_stopping.patience": 0,
    "inverse_time_schedule.decay_rate": 0,
    "inverse_time_schedule.transition_steps": 1,
    "m_mult": 0,
    "min_lr": 0,
    "min_value": 0,
    "multi_step_schedule.gamma": 0,
    "MultiStepLR.gamma": 0,
    "onecycle.transition_steps": 1,
    "cosine_onecycle_schedule.transition_steps": 1,
    "linear_onecycle_schedule.transition_steps": 1,
    "one_cycle_schedule.transition_steps": 1,
    "patience": 0,
    "reduce_on_plateau.eps": 0,
    "ReduceLROnPlateau.eps": 0,
    "stable_steps": 0,
    "step_schedule.step_size": 1,
    "StepLR.step_size": 1,
    "step_size_down": 1,
    "step_size_up": 1,
    "t_mult": 1,
    "total_iters": 0,
    "total_steps": 1,
    "transition_begin": 0,
    "transition_steps": 0,
    "warmup_steps": 0,
}
# Numbers of schedules that may be any, or that PAIRS below has.
FREE = {
    *("alpha", "base_batch_size", "base_lr", "base_momentum", "batch_size", "decay_rate", "div_factor"),
    *("end_factor", "end_value", "epochs", "eta_min", "exponent", "factor", "final_div_factor", "gamma"),
    *("init_value", "learning_rate", "lr", "max_lr", "max_momentum", "momentum", "pct_final", "pct_start"),
    *("peak_value", "power", "start_factor", "steps", "steps_per_epoch", "threshold", "timescale", "value"),
    *(
        "warmup_cosine_decay_schedule.warmup_steps",
        "OneCycleLR.total_steps",
        "ConstantLR.total_iters",
        "sgdr_schedule.cosine_kwargs",
    ),
}
# Numbers elsewhere that are no hyperparameters, or that PAIRS has.
NO_RANGE = {"axis", "beta2_decay", "beta_2_decay", "key", "max_step_size", "min_dim_size_to_factor"} | {
    *("output_axis", "seed")
}


def is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def options(function, name):
    """The default of an argument, if it has one, and its probes."""
    default = inspect.signature(function).parameters[name].default
    probe = found(PROBES, keys(function, name))
    return [*([] if default is inspect.Parameter.empty else [default]), *(probe.values if probe else ())]


EVERY = ROWS + [(f, name) for f in SEARCHES for name in inspect.signature(f).parameters]
NUMBERS = [row for row in EVERY if any(map(is_number, options(*row)))]
IN_STEPS = [row for row in NUMBERS if row[0].__module__.startswith(SCHEDULES) or row[0] is gx.early_stopping]
HYPER = [row for row in NUMBERS if row not in IN_STEPS]
WORDS = [row for row in EVERY if any(isinstance(x, str) for x in options(*row))]
NO_WORDS = {"axis_name", "averaged", "freeze_mask", "mask", "norms", "static_args", "trust_ratio_mask"} | {
    *("weight", "weight_decay_mask", "where", "policy", "layers", "floor")
}


def with_value(function, argument, value):
    """A call with this value, and what the argument's probe has beside it."""
    probe, known = found(PROBES, keys(function, argument)), inspect.signature(function).parameters
    beside = found(BESIDE, keys(function), {}) | (probe.beside if probe else {})
    beside |= found(TOGETHER, keys(function, argument), {})
    return made_by(function, {k: v for k, v in beside.items() if k in known} | {argument: value})


def range_of(function, argument) -> Range:
    """The range of an argument: of a factory that it is passed to, or its own."""
    own = RANGED_AS.get(f"{space_of(function)}{function.__name__}.{argument}")
    if own := own or found(RANGED_AS, keys(function, argument)):
        return own
    takers = []
    if function not in SEARCHES:
        value, made = tries(function, argument, found(PROBES, keys(function, argument)))[0]
        takers = [(f.__name__, name) for f, name in receivers(function, argument, value, made)]
    declared = [range_by(*taker) for taker in [*takers[::-1], (function.__name__, argument)]]
    inner = [r for r in declared[:-1] if r is not NUMBER]
    return [*inner, declared[-1]][0]


def range_by(owner, name):
    return RANGES.get(f"{owner}.{name}", RANGES.get(name, NUMBER))


def ends(declared: Range) -> list[tuple[float, float]]:
    words = declared.described.replace("between 0 and 1", "at least 0 and at most 1")
    pairs = [ENDS[words](float(x)) for words, x in re.findall(rf"({'|'.join(ENDS)}) (\d+)", words)]
    pairs += [(LARGEST, math.inf)] if "finite" in words else []
    pairs += [(-LARGEST, math.nan), (LARGEST, math.nan)] if declared is NUMBER else []
    return pairs


def named(function, argument) -> str:
    """How an error begins: with the factory that was called and its argument, not with a link inside.

    A function that is no factory, such as a scheduler of torch's, may leave both to what it calls.
    """
    return rf"{function.__name__}: {argument}(\[\d\])?" if function.__code__ is IS_FACTORY else r"\w+: \w+"


def refused(match: str, call):
    with pytest.raises(ValueError, match=match):
        call()


@of([row for row in HYPER if row[1] not in NO_RANGE | INTEGERS.keys()])
def test_a_number_has_its_range(function, argument):
    declared = range_of(function, argument)
    says = rf"^{named(function, argument)} must be {re.escape(declared.described)}, got"
    make = functools.partial(with_value, function, argument)
    for last, out in [*ends(declared), (None, math.nan)]:
        if last is not None:
            make(last)
        refused(says, lambda out=out: make(out))


def explained(function, argument) -> str:
    """What the docstring says of an argument."""
    entries = ENTRY.findall(inspect.getdoc(function) or "")
    return " ".join(" ".join(text for _, names, text in entries if argument in names.split(", ")).split())


@of([row for row in HYPER if row[1] not in NO_RANGE | INTEGERS.keys()])
def test_the_range_is_that_of_the_docstring(function, argument):
    """As far as it says one: infinity, where it is refused, is not worth the words."""
    declared = range_of(function, argument)
    range_in = lambda text: set(
        re.findall(r"between 0 and 1|(?:at least|at most|more than|less than) \d+", text)
    )
    said = range_in(explained(function, argument).partition(";")[0])
    assert not said or said == range_in(declared.described)


@of([row for row in HYPER if row[1] in INTEGERS])
def test_an_integer_is_one_and_large_enough(function, argument):
    least, make = INTEGERS[argument], functools.partial(with_value, function, argument)
    make(least)
    says = rf"^{named(function, argument)} must be (an integer of )?at least [12]"
    for wrong in (least - 1, 0, True, 2.0):
        refused(says, lambda wrong=wrong: make(wrong))


@of([row for row in IN_STEPS if found(dict.fromkeys(FREE, True), keys(*row)[:2]) is None])
def test_a_number_of_steps_is_large_enough(function, argument):
    least = found(LEAST, keys(function, argument))
    if argument in FREE and least is None:
        return
    assert least is not None, f"add {argument!r} to LEAST, or to FREE, in {__file__}"
    make = functools.partial(with_value, function, argument)
    make(least)
    says = rf"^{named(function, argument)} must be at least {least} and below 2\*\*31, got"
    for out in (before(least), 2**31, math.nan):
        refused(says, lambda out=out: make(out))


@of([row for row in WORDS if row[1] not in NO_WORDS])
def test_a_word_is_one_of_those_that_are_known(function, argument):
    known = [x for x in options(function, argument) if isinstance(x, str)]
    for word in known:
        with_value(function, argument, word)
    with pytest.raises(ValueError, match=f"^{named(function, argument)} must be .* got 'another'") as raised:
        with_value(function, argument, "another")
    assert all(repr(word) in str(raised.value) for word in known)
