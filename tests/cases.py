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
FLOAT32_DECAY = {
    "test_agrees_with_optax": "Optax takes the decay rate in float32; see tests/optimizers/test_adafactor.py"
}
NO_SCALARS = dict.fromkeys(
    ["test_agrees_with_optax", "test_exchanges_states_with_optax"],
    "Optax's raises IndexError for the scalar of the tests; tests/optimizers/test_sm3.py has the others",
)

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
        gx.adafactor,
        dict(learning_rate=0.1),
        reference.adafactor,
        optax.adafactor,
        elementwise=False,
        exempt=FLOAT32_DECAY,
    ),
    Case(
        gx.adafactor,
        dict(
            learning_rate=0.1,
            min_dim_size_to_factor=2,
            momentum=0.8,
            dtype_momentum=None,
            weight_decay_rate=1e-3,
            weight_decay_mask=MASK,
        ),
        reference.adafactor,
        optax.adafactor,
        elementwise=False,
        exempt=FLOAT32_DECAY,
    ),
    Case(
        gx.adafactor,
        dict(
            learning_rate=0.1,
            min_dim_size_to_factor=1,
            eps=0.0,
            weight_decay_rate=1e-3,
            relative_step=True,
            floor=1e-6,
            factored_axes="last",
        ),
        reference.adafactor,
        elementwise=False,
    ),
    Case(
        gx.sm3,
        dict(learning_rate=0.1),
        reference.sm3,
        optax.sm3,
        tuned=dict(learning_rate=0.5),
        elementwise=False,
        exempt=NO_SCALARS,
    ),
    Case(gx.novograd, dict(learning_rate=0.1), reference.novograd, optax.novograd, elementwise=False),
    Case(
        gx.novograd,
        dict(learning_rate=0.1, b1=0.8, b2=0.5, eps_root=1e-3, **WD),
        reference.novograd,
        optax.novograd,
        elementwise=False,
    ),
    Case(gx.adan, dict(learning_rate=0.1), reference.adan, optax.adan),
    Case(gx.adan, dict(learning_rate=0.1, b1=0.9, b3=0.95, **WD, mask=MASK), reference.adan, optax.adan),
    # So little noise that it is below every tolerance: tests/transforms/test_noise.py has its laws.
    Case(gx.noisy_sgd, dict(learning_rate=0.1, eta=1e-30, key=0), reference.noisy_sgd, optax.noisy_sgd),
]

BY_TX = {case.make(): case for case in CASES}


def exemptions(case: Any, tx: Any) -> dict[str, str]:
    """What a test's row, or the row of a test's transformation, need not pass."""
    row = case if isinstance(case, Case) else BY_TX.get(tx)
    return row.exempt if row else {}
