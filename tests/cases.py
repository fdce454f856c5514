"""THE table: every test in `test_optimizers.py` and `test_contract.py` runs on every row.

The first row of an optimizer is the one that the README's table describes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import gradx as gx
from tests import reference


class Case(NamedTuple):
    """An optimizer with arguments, and what it is held against."""

    optimizer: Callable[..., gx.GradientTransformation]
    kwargs: dict[str, Any]
    reference: Callable  # a generator in reference.py that takes the same arguments
    optax: Callable | None = None  # Optax's own, where its rule is the same ...
    optax_kwargs: dict[str, Any] | None = None  # ... with these arguments, if not the same
    tuned: dict[str, Any] | None = None  # what to change to minimise the quadratic of the tests
    rate: str = "learning_rate"  # which argument is
    elementwise: bool = True  # False: an update depends on its whole array
    whole_tree: bool = False  # an update depends on all parameters: the reference has them as one vector
    extra: dict[str, Any] = {}  # what else `update` must be given
    exempt: dict[str, str] = {}  # test -> why this row cannot pass it

    def make(self, **changed: Any) -> gx.GradientTransformation:
        tx = self.optimizer(**self.kwargs | changed)
        return given(tx, **self.extra) if self.extra else tx

    def make_optax(self) -> Any:
        tx = self.optax(**(self.kwargs if self.optax_kwargs is None else self.optax_kwargs))
        return given(tx, **self.extra) if self.extra else tx

    def __str__(self) -> str:
        return repr(self.make())


@gx.factory
def given(tx: gx.GradientTransformation, **extra: Any) -> gx.GradientTransformation:
    """`tx` with some arguments of `update` given already, for tests that know nothing of them."""

    def update(updates, state, params=None, **others):
        return tx.update(updates, state, params, **extra | others)

    return gx.GradientTransformation(tx.init, update)


MASK = gx.matrices_only
WD = dict(weight_decay=0.1)
LARS = dict(learning_rate=0.1, trust_coefficient=0.1, weight_decay=0.01)

WHOLE_TREE = dict(
    elementwise=False,
    whole_tree=True,
    exempt={
        "test_other_parameters_change_nothing": "its step is found from all parameters together",
        "test_inside_optax_partition": "in a partition it sees a part, and its step is that of all it sees",
    },
)
POLYAK = WHOLE_TREE | dict(rate="max_learning_rate", extra={"value": 1.0})
NOT_SCALED_FIRST = {
    "test_exchanges_states_with_optax": "Optax scales before the rule and gradx after: two empty states swap"
}
NOT_SLOTS = {"test_maps_over_slots_with_optax": "weights_memory has a number for each pair: it is no slot"}

CASES = [
    Case(gx.sgd, dict(learning_rate=0.1), reference.sgd, optax.sgd),
    Case(gx.sgd, dict(learning_rate=0.1, momentum=0.9), reference.sgd, optax.sgd),
    Case(gx.sgd, dict(learning_rate=0.1, momentum=0.9, nesterov=True), reference.sgd, optax.sgd),
    Case(gx.adam, dict(learning_rate=0.1), reference.adam, optax.adam),
    Case(gx.adam, dict(learning_rate=0.1, b1=0.0, b2=0.5, eps=1e-3), reference.adam, optax.adam),
    Case(gx.adam, dict(learning_rate=0.1, eps_root=1e-3, nesterov=True), reference.adam, optax.adam),
    Case(gx.adam, dict(learning_rate=0.1, bias_correction=False), reference.adam),
    Case(gx.adam, dict(learning_rate=0.1, bias_correction=False, nesterov=True), reference.adam),
    Case(gx.adamw, dict(learning_rate=0.1), reference.adamw, optax.adamw),
    Case(gx.adamw, dict(learning_rate=0.1, **WD, mask=MASK), reference.adamw, optax.adamw),
    Case(gx.lion, dict(learning_rate=0.01), reference.lion, optax.lion, tuned=dict(learning_rate=0.02)),
    Case(gx.lion, dict(learning_rate=0.01, b1=0.8, **WD, mask=MASK), reference.lion, optax.lion),
    Case(gx.lars, dict(learning_rate=1.0), reference.lars, optax.lars, tuned=LARS, elementwise=False),
    Case(
        gx.lars,
        dict(learning_rate=1.0, **WD, weight_decay_mask=MASK, trust_ratio_mask=MASK, nesterov=True, eps=1e-3),
        reference.lars,
        optax.lars,
        tuned=LARS,
        elementwise=False,
    ),
    Case(
        gx.lars,
        dict(learning_rate=1.0, **WD, denominator="summed", trust_ratio_mask=MASK, phi_bounds=(0.1, 1.0)),
        reference.lars,
        tuned=LARS,
        elementwise=False,
    ),
    Case(gx.lamb, dict(learning_rate=0.1, **WD), reference.lamb, optax.lamb, elementwise=False),
    Case(gx.lamb, dict(learning_rate=0.1, bias_correction=False), reference.lamb, elementwise=False),
    Case(
        gx.lamb,
        dict(learning_rate=0.1, **WD, mask=MASK, trust_ratio_mask=MASK, phi_bounds=(0.5, 2.0)),
        reference.lamb,
        elementwise=False,
    ),
    Case(
        gx.radam,
        dict(learning_rate=0.1),
        reference.radam,
        optax.radam,
        exempt={
            "test_exchanges_states_with_optax": "Optax's r is 0.6 % off in float32, by cancellation in ρ"
        },
    ),
    Case(
        gx.radam,
        dict(learning_rate=0.1, b1=0.8, b2=0.9, eps=1e-3, eps_root=1e-3, nesterov=True),
        reference.radam,
        optax.radam,
    ),
    Case(
        gx.radam,
        dict(learning_rate=0.1, b2=0.99, eps=1e-3, threshold=6.0, eps_before_correction=True),
        reference.radam,
    ),
    Case(
        gx.ranger,
        dict(learning_rate=0.1),
        reference.ranger,
        tuned=dict(centralized=False),  # the quadratic's minimum is off centre
        elementwise=False,
    ),
    Case(
        gx.ranger,
        dict(learning_rate=0.1, **WD, mask=MASK, sync_period=2, slow_step_size=0.25, centralized=False),
        reference.ranger,
    ),
    Case(
        gx.polyak_sgd,
        dict(max_learning_rate=0.1),
        reference.polyak_sgd,
        optax.polyak_sgd,
        **POLYAK | dict(exempt=WHOLE_TREE["exempt"] | NOT_SCALED_FIRST),
    ),
    Case(
        gx.polyak_sgd,
        dict(max_learning_rate=0.5, scaling=0.5, f_min=0.5, eps=0.1, variant="sps+"),
        reference.polyak_sgd,
        **POLYAK,
    ),
    Case(
        gx.lbfgs,
        dict(learning_rate=0.1, linesearch=None, min_curvature=0.1),
        reference.lbfgs,
        **WHOLE_TREE | dict(exempt=WHOLE_TREE["exempt"] | NOT_SLOTS),
    ),
    Case(
        gx.lbfgs,
        dict(learning_rate=0.01, memory_size=3, scale_init_precond=False, linesearch=None),
        reference.lbfgs,
        tuned=dict(learning_rate=0.1),
        **WHOLE_TREE | dict(exempt=WHOLE_TREE["exempt"] | NOT_SLOTS),
    ),
]

BY_TX = {case.make(): case for case in CASES}


def exemptions(case: Any, tx: Any) -> dict[str, str]:
    """What a test's row, or the row of a test's transformation, need not pass."""
    row = case if isinstance(case, Case) else BY_TX.get(tx)
    return row.exempt if row else {}
