"""A transformation as a function of its learning rate."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import InjectStatefulHyperparamsState

from gradx.factory import Call, frozen, text

__all__ = []  # internal: the range test's


def of_rate(owner: str, tx: Any) -> Callable[[Any], Any]:
    """What `tx` is at a learning rate."""
    is_function = callable(tx) and not hasattr(tx, "update")
    if is_function:
        return tx
    found: list[Any] = []
    remade(tx, 1.0, found)
    if len({frozen(rate) for rate in found}) != 1:
        rates = (
            f"the learning rates {', '.join(map(text, found))}" if found else "no learning rate that shows"
        )
        raise ValueError(
            f"{owner}: {text(tx)} has {rates}: give a function of the rate that is to be tested, such as "
            "gradx.adamw or lambda rate: gradx.chain(...)"
        )
    return WithRate(tx)


@dataclasses.dataclass(frozen=True)
class WithRate:
    """A transformation as a function of its learning rate: the calls that made it, with another one."""

    tx: Any

    def __call__(self, rate: Any) -> Any:
        return remade(self.tx, rate, [])


def remade(tx: Any, rate: Any, found: list[Any]) -> Any:
    """`tx` made again with `rate` wherever there is a learning rate; those that were there go to `found`."""
    is_made = lambda x: isinstance(x, optax.GradientTransformation)
    call = getattr(tx, "_call", None)
    if not isinstance(call, Call):
        return tx
    bound = copy.copy(call.bound)
    bound.arguments = dict(bound.arguments)
    for name, value in bound.arguments.items():
        if name == "learning_rate" and value is not None:
            found.append(value)
            bound.arguments[name] = rate
        else:
            again = lambda x: remade(x, rate, found) if is_made(x) else x
            bound.arguments[name] = jax.tree.map(again, value, is_leaf=is_made)
    return call.function(*bound.args, **bound.kwargs)


def with_hyperparams(state: Any, fresh: Any) -> Any:
    """`state` with the injected hyperparameters of a fresh one: they are read from the state."""
    is_injected = lambda x: isinstance(x, InjectStatefulHyperparamsState)

    def renewed(old: Any, new: Any) -> Any:
        if not is_injected(old):
            return old
        inner = with_hyperparams(old.inner_state, new.inner_state)
        return old._replace(hyperparams=new.hyperparams, inner_state=inner)

    return jax.tree.map(renewed, state, fresh, is_leaf=is_injected)
