"""`optax.schedules`: gradx's schedules where gradx has them."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import optax.schedules

if TYPE_CHECKING:  # so that editors complete Optax's own names; `__getattr__` gives these
    from optax.schedules import *  # pyright: ignore[reportWildcardImportFromLibrary]

import gradx as gx
from gradx.optax.rules import inject_hyperparams as inject_hyperparams

P = ParamSpec("P")
T = TypeVar("T")


def as_optax(ours: Callable[P, T], theirs: Callable[..., Any]) -> Callable[P, T]:
    """`ours`; but `theirs` for numbers that gradx refuses. An error of Optax's is raised here too."""

    @functools.wraps(theirs)
    def make(*args: P.args, **kwargs: P.kwargs) -> T:
        optax_has = theirs(*args, **kwargs)
        try:
            return ours(*args, **kwargs)
        except ValueError:
            return optax_has

    return make


def with_warmup(init_value: float, peak_value: float, warmup_steps: int) -> gx.Schedule:
    """`gradx.warmup_constant_schedule`, but for no steps: that is at the peak then, Optax's at the start."""
    if warmup_steps < 1:
        raise ValueError("there is no warm-up")
    return gx.warmup_constant_schedule(init_value, peak_value, warmup_steps)


def with_warmup_and_decay(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> gx.Schedule:
    """`gradx.warmup_exponential_decay_schedule`, but for a peak beyond the bound: Optax's jumps there."""
    if end_value is not None and (peak_value < end_value if decay_rate < 1 else peak_value > end_value):
        raise ValueError("the peak is beyond the bound")
    return gx.warmup_exponential_decay_schedule(
        init_value,
        peak_value,
        warmup_steps,
        transition_steps,
        decay_rate,
        transition_begin,
        staircase,
        end_value,
    )


constant_schedule = as_optax(gx.constant_schedule, optax.constant_schedule)
cosine_decay_schedule = as_optax(gx.cosine_decay_schedule, optax.cosine_decay_schedule)
cosine_onecycle_schedule = as_optax(gx.cosine_onecycle_schedule, optax.cosine_onecycle_schedule)
exponential_decay = as_optax(gx.exponential_decay, optax.exponential_decay)
join_schedules = as_optax(gx.join_schedules, optax.join_schedules)
linear_onecycle_schedule = as_optax(gx.linear_onecycle_schedule, optax.linear_onecycle_schedule)
linear_schedule = as_optax(gx.linear_schedule, optax.linear_schedule)
piecewise_constant_schedule = as_optax(gx.piecewise_constant_schedule, optax.piecewise_constant_schedule)
piecewise_interpolate_schedule = as_optax(
    gx.piecewise_interpolate_schedule, optax.piecewise_interpolate_schedule
)
polynomial_schedule = as_optax(gx.polynomial_schedule, optax.polynomial_schedule)
sgdr_schedule = as_optax(gx.sgdr_schedule, optax.sgdr_schedule)
warmup_constant_schedule = as_optax(with_warmup, optax.warmup_constant_schedule)
warmup_cosine_decay_schedule = as_optax(gx.warmup_cosine_decay_schedule, optax.warmup_cosine_decay_schedule)
warmup_exponential_decay_schedule = as_optax(with_warmup_and_decay, optax.warmup_exponential_decay_schedule)

# For `import *`. The list cannot be written out: a newer Optax has more names.
__all__ = [name for name in dir(optax.schedules) if not name.startswith("_")]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    return getattr(optax.schedules, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(optax.schedules)})
