"""A transformation as a function of its learning rate."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from optax import InjectStatefulHyperparamsState

from gradx.core.display import text
from gradx.core.factory import hashable
from gradx.selection.overrides import calls_in, hyperparameters, with_changes

__all__ = []  # internal: the range test's


def of_rate(owner: str, tx: Any) -> Callable[[Any], Any]:
    """`tx` as a function of its learning rate."""
    if callable(tx) and not hasattr(tx, "update"):
        return tx
    found = [hyperparameters(call).get("learning_rate") for call in calls_in(tx)]
    found = [rate for rate in found if rate is not None]
    if len(set(map(hashable, found))) != 1:
        rates = f"the learning rates {', '.join(map(text, found))}" if found else "no visible learning rate"
        raise ValueError(
            f"{owner}: {text(tx)} has {rates}: give a function of the rate to test, such as "
            "gradx.adamw or lambda rate: gradx.chain(...)"
        )
    return WithRate(tx)


@dataclasses.dataclass(frozen=True)
class WithRate:
    """A transformation as a function of its learning rate: it repeats the calls that made `tx`."""

    tx: Any

    def __call__(self, rate: Any) -> Any:
        return with_changes(self.tx, {"learning_rate": rate})


def with_hyperparams(state: Any, fresh: Any) -> Any:
    """`state` with the injected hyperparameters of a fresh state, from which each step reads them."""
    is_injected = lambda x: isinstance(x, InjectStatefulHyperparamsState)

    def renewed(old: Any, new: Any) -> Any:
        if not is_injected(old):
            return old
        inner = with_hyperparams(old.inner_state, new.inner_state)
        return old._replace(hyperparams=new.hyperparams, inner_state=inner)

    return jax.tree.map(renewed, state, fresh, is_leaf=is_injected)
