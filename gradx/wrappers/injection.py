"""Hyperparameters as data: in the state, so that changing one does not recompile."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from optax import InjectStatefulHyperparamsState
from optax.schedules import WrappedSchedule

from gradx.core.factory import Call, Made, factory, is_bool, known_by
from gradx.core.foreign import blank_of, is_exact, observe_of
from gradx.core.hyperparameters import Scalar, ScalarOrSchedule, fixed, following_schedules
from gradx.core.ranges import RANGES, check, scheduled
from gradx.core.renaming import partial_with_new_names, with_new_names
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import State, Tree
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import each_device_own, varying_like

__all__ = ["InjectStatefulHyperparamsState", "inject_hyperparams", "set_hyperparams"]


# Integer arguments that are no hyperparameters.
INTEGERS = {"axis", "key", "max_backtracking_steps", "max_linesearch_steps", "seed"}
T = TypeVar("T")
Numbers: TypeAlias = dict[str, Scalar]  # by hyperparameter


@factory
def inject_hyperparams(
    inner_factory: Callable[..., optax.GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: DTypeLike = jnp.float32,
) -> "Injected":
    """Make the transformations of a factory keep their hyperparameters in the state, as float32.

    `state.hyperparams` is a dict of scalars. A number can be changed between steps without a
    recompilation, or differ between runs under `vmap`; a schedule shows its value of the last step.
    A schedule that has a state, such as `reduce_on_plateau`, is given the extra arguments of
    `update` after each step.

    Arguments:
      inner_factory: a function that makes a transformation, such as `adamw`.
      static_args: names to leave out of the state. Bools, strings, None, dtypes, masks, random keys and
        integers whose default is an integer are left out anyway. A function counts as a schedule only if it
        gives a number for a step.
      hyperparam_dtype: the dtype of the scalars, whatever the dtypes of the parameters.

    Raises KeyError, with the names that exist, for a name that the factory does not have.

    >>> import gradx, jax.numpy as jnp
    >>> tx = gradx.inject_hyperparams(gradx.adamw)(1e-3, mask=gradx.matrices_only)
    >>> state = gradx.set_hyperparams(tx.init(jnp.zeros(3)), learning_rate=0.5)
    >>> float(state.hyperparams["learning_rate"])
    0.5
    """
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    return Injected(inner_factory, static, hyperparam_dtype)


class Injected(Made):
    """A factory whose transformations keep their numeric arguments in the state."""

    def __init__(self, inner_factory: Callable, static: set[str], dtype: DTypeLike) -> None:
        self.inner_factory = inner_factory = partial_with_new_names(inner_factory)
        self.signature = inspect.signature(inner_factory)
        self.static = static = set(with_new_names(inner_factory, dict.fromkeys(static)))
        self.dtype = dtype
        self.owner = getattr(inner_factory, "__name__", repr(inner_factory))
        self.refuse_unknown(static)
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in self.signature.parameters.values()):
            raise TypeError(
                f"inject_hyperparams needs named arguments, and {self.owner}{self.signature} has others"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> GradientTransformation:
        """Call the factory; schedules may stand for any number."""
        kwargs = with_new_names(self.inner_factory, kwargs)
        self.refuse_unknown(kwargs)
        call = Call(self, self.signature, args, kwargs)
        bound = call.bound
        kinds = {name: self.kind(name, value) for name, value in bound.arguments.items()}
        of_kind = lambda kind: {k: v for k, v in bound.arguments.items() if kinds[k] == kind}
        static, numbers = of_kind("static"), of_kind("number")
        schedules = {k: self.stateful(k, v) for k, v in of_kind("schedule").items()}
        make = functools.partial(self.inner_factory, **static)
        return known_by(injected(make, numbers, schedules, self.dtype), call)

    def refuse_unknown(self, names: Iterable[str]) -> None:
        known = list(self.signature.parameters)
        for name in names:
            if name not in known:
                raise KeyError(f"{self.owner} has no hyperparameter {name!r}; it has {known}")

    def stateful(self, name: str, schedule: Any) -> Any:
        """A schedule as one with a state; the values of a function of the step are checked."""
        if hasattr(schedule, "update"):
            return schedule
        return WrappedSchedule(functools.partial(scheduled, self.owner, name, schedule))

    def kind(self, name: str, value: object) -> str:
        """How an argument is held: "number" or "schedule" in the state, or "static"."""
        default = self.signature.parameters[name].default
        if name in self.static or name in INTEGERS or is_bool(value) or isinstance(value, type):
            return "static"  # a type, jnp.float32 say, gives a number for a step, but is no schedule
        if callable(value):
            # Any hyperparameter may follow a schedule. Of another argument a call tells what it is.
            is_hyper = name in RANGES or may_follow(self.signature.parameters[name].annotation)
            is_schedule = is_hyper or hasattr(value, "update") or gives_number(value)
            return "schedule" if is_schedule else "static"
        if isinstance(value, int) and isinstance(default, int):
            return "static"  # a count, such as a number of iterations
        is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
        return "number" if is_number else "static"


def may_follow(annotation: Any) -> bool:
    """Whether a type has all that `ScalarOrSchedule` has."""
    return all(kind in get_args(annotation) for kind in get_args(ScalarOrSchedule))


def gives_number(function: Callable) -> bool:
    """True for a schedule, False for a mask or any other function."""
    try:
        out = jax.eval_shape(function, jax.ShapeDtypeStruct((), jnp.int32))
    except jax.errors.JAXTypeError:
        return True  # it branches on the step, as a schedule may
    except Exception:
        return False  # it wants something other than a step
    return hasattr(out, "dtype") and jnp.issubdtype(out.dtype, np.number)


def injected(make: Callable, numbers: Numbers, schedules: dict, dtype: DTypeLike) -> GradientTransformation:
    """A transformation that calls `make` at every step with the hyperparameters in the state."""
    known = sorted([*numbers, *schedules])

    def values(states: dict[str, State], **extra: Any) -> Numbers:
        now = {k: schedule(states[k], **extra) for k, schedule in schedules.items()}
        return {k: jnp.array(v, dtype) for k, v in now.items()}

    def initial(params: Tree = ()) -> dict[str, State]:
        # A stateful schedule sees extra arguments, such as a loss, which vary over devices as parameters do.
        states = {k: schedule.init() for k, schedule in schedules.items()}
        is_plain = lambda k: isinstance(schedules[k], WrappedSchedule)
        return {k: s if is_plain(k) else each_device_own(s, params) for k, s in states.items()}

    def made(hyperparams: Numbers) -> optax.GradientTransformation:
        given = {k: x if k in schedules else fixed(x) for k, x in hyperparams.items()}
        with following_schedules(bool(schedules)):
            return make(**given)

    def checked(now: Numbers) -> optax.GradientTransformation:
        with following_schedules(bool(schedules)):
            return make(**numbers, **now)

    # The factory refuses bad numbers now. It is called in a trace, which computes nothing on any device, and
    # calls no schedule.
    exact = False
    with contextlib.suppress(jax.errors.JAXTypeError):  # a factory that branches on a scheduled number
        unknown = {k: jax.ShapeDtypeStruct((), jax.dtypes.canonicalize_dtype(dtype)) for k in schedules}
        exact = traced_once(lambda now: is_exact(checked(now)), unknown)

    def init(params):
        states = initial(params)
        hyperparams: Numbers = {k: jnp.array(v, dtype) for k, v in numbers.items()} | values(states)
        inner = made(hyperparams).init(params)
        return InjectStatefulHyperparamsState(jnp.zeros((), jnp.int32), hyperparams, states, inner)

    def blank(params):
        return blank_of(checked(values(initial())))(params)

    def observe(updates, state, params=None, **extra):
        check_state("inject_hyperparams", InjectStatefulHyperparamsState, state)
        for name in set(state.hyperparams) ^ set(known):
            raise KeyError(f"the state's hyperparams must be {known}; {name!r} is unknown or missing")
        for name in set(state.hyperparams_states) ^ set(schedules):
            raise KeyError(f"{name!r} follows a schedule in only one of the state and the transformation")
        given: Numbers = {k: jnp.asarray(v, dtype) for k, v in state.hyperparams.items()}
        hyperparams = given | values(state.hyperparams_states, **extra)
        inner_observe = observe_of("the result of the injected factory", made(hyperparams))
        updates, inner, reports = inner_observe(updates, state.inner_state, params, **extra)
        states = {k: s.update(state.hyperparams_states[k], **extra) for k, s in schedules.items()}
        states = jax.tree.map(varying_like, states, state.hyperparams_states)
        new = InjectStatefulHyperparamsState(increment(state.count), hyperparams, states, inner)
        return updates, new, reports

    return GradientTransformation.of(init, observe, blank, exact=exact)


def traced_once(function: Callable[[Tree], T], argument: Tree) -> T:
    """The result of a function, of any type, for unknown numbers, without computing anything."""
    found: list[T] = []
    jax.eval_shape(lambda x: found.append(function(x)), argument)
    return found[0]


def set_hyperparams(state: State, **values: float | jax.Array) -> State:
    """`state` with other values for injected hyperparameters, anywhere in it.

    Arguments:
      state: the state of `inject_hyperparams(...)(...)`, or any state around it.
      values: by name, each a number or a scalar array. It is cast to the dtype in the state, so that a
        jitted step need not compile again.

    Raises KeyError, with the names that exist, for an unknown one, and ValueError for one that a
    schedule sets at every step.
    """
    is_injected = lambda x: isinstance(x, InjectStatefulHyperparamsState)
    known: set[str] = set()

    def renewed(s: Tree) -> Tree:
        if not is_injected(s):
            return s
        known.update(s.hyperparams)
        new = dict(s.hyperparams)
        for name in values.keys() & s.hyperparams.keys():
            if name in s.hyperparams_states:
                raise ValueError(f"set_hyperparams: {name} follows a schedule, which sets it at every step")
            old = s.hyperparams[name]
            value = jnp.array(
                values[name], old.dtype
            )  # a copy: the state is donated, the caller's array is not
            for element in value.ravel():  # one, or one for each run of a sweep
                check("set_hyperparams", **{name: element})
            new[name] = jnp.broadcast_to(value, old.shape)
        inner = jax.tree.map(renewed, s.inner_state, is_leaf=is_injected)
        return s._replace(hyperparams=new, inner_state=inner)

    out = jax.tree.map(renewed, state, is_leaf=is_injected)
    for name in values.keys() - known:
        raise KeyError(f"set_hyperparams: no hyperparameter is named {name!r}; the state has {sorted(known)}")
    return out
