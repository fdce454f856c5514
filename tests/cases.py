"""THE table: every test in `test_optimizers.py` and `test_contract.py` runs on every row.

The first row of an optimizer is the one that the README's table describes.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
import pytest

import gradx as gx
from tests import reference


class Case(NamedTuple):
    """An optimizer with arguments, and what it is held against."""

    optimizer: Callable[..., gx.GradientTransformation]
    kwargs: dict[str, Any]
    reference: Callable  # a generator in tests/reference/ that takes the same arguments
    optax: Callable | None = None  # Optax's own, where its rule is the same ...
    optax_kwargs: dict[str, Any] | None = None  # ... with these arguments, if not the same
    tuned: dict[str, Any] | None = None  # what to change to minimise the quadratic of the tests
    rate: str = "learning_rate"  # which argument is the learning rate
    elementwise: bool = True  # False: an update depends on its whole array
    whole_tree: bool = False  # an update depends on all parameters: the reference has them as one vector
    extra: dict[str, Any] = {}  # what else `update` must be given
    exempt: dict[str, str] = {}  # test -> why this row fails it, as it then must

    def make(self, **changed: Any) -> gx.GradientTransformation:
        tx = self.optimizer(**self.kwargs | changed)
        return given(tx, **self.extra) if self.extra else tx

    def scheduled(self, steps: int) -> gx.GradientTransformation:
        """With what is tuned, and its learning rate falling along a cosine."""
        tuned = self.kwargs | (self.tuned or {})
        return self.make(**tuned | {self.rate: gx.cosine_decay_schedule(tuned[self.rate], steps)})

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


def without_warnings(function: Callable) -> Callable:
    """For what Optax has deprecated."""

    @functools.wraps(function)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return function(*args, **kwargs)

    return quiet


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

OWN_DEFAULTS = {
    "test_has_the_arguments_of_optax_first": "a default differs, see the table in docs/coming_from_optax.md"
}
NO_COMPLEX = {"test_complex_parameters": "the sign of a complex number is not defined: refused"}
NO_COUNT = {"test_its_state_can_be_searched_with_optax": "it takes a schedule's first value only"}

WHOLE_TREE = dict(
    elementwise=False,
    whole_tree=True,
    exempt={
        "test_other_parameters_change_nothing": "its step is found from all parameters together",
        "test_inside_optax_partition": "in a partition it sees a part, and its step is that of all it sees",
    },
)
POLYAK = WHOLE_TREE | dict(rate="max_learning_rate", extra={"value": 1.0})

CASES = [
    Case(gx.sgd, dict(learning_rate=0.1), reference.sgd, optax.sgd),
    Case(gx.sgd, dict(learning_rate=0.1, momentum=0.9), reference.sgd, optax.sgd),
    Case(gx.sgd, dict(learning_rate=0.1, momentum=0.9, nesterov=True), reference.sgd, optax.sgd),
    Case(gx.sgd, dict(learning_rate=0.1, momentum=0.9, rate_in_velocity=True), reference.sgd),
    Case(gx.adagrad, dict(learning_rate=0.1), reference.adagrad, tuned=dict(learning_rate=0.5)),
    Case(
        gx.adagrad,
        dict(learning_rate=0.1, initial_accumulator_value=0.1, eps_in_sqrt=True),
        reference.adagrad,
        optax.adagrad,
        dict(learning_rate=0.1),
        tuned=dict(learning_rate=0.5),
        exempt=OWN_DEFAULTS,
    ),
    Case(gx.rmsprop, dict(learning_rate=0.01), reference.rmsprop, tuned=dict(learning_rate=0.05)),
    Case(
        gx.rmsprop,
        dict(learning_rate=0.01, eps_in_sqrt=True, momentum=0.9, initial_scale=0.5, nesterov=True),
        reference.rmsprop,
        optax.rmsprop,
        exempt=OWN_DEFAULTS,
    ),
    Case(
        gx.rmsprop,
        dict(learning_rate=0.01, centered=True, bias_correction=True, eps=1.0, eps_in_sqrt=True),
        reference.rmsprop,
        optax.rmsprop,
        tuned=dict(learning_rate=0.05),
        exempt=OWN_DEFAULTS,
    ),
    Case(
        gx.rmsprop,
        dict(learning_rate=0.01, centered=True, eps=1e-3, momentum=0.5),
        reference.rmsprop,
    ),
    Case(gx.rmsprop, dict(learning_rate=0.01, momentum=0.9, rate_in_velocity=False), reference.rmsprop),
    Case(
        gx.adadelta,
        dict(weight_decay=0.1),
        reference.adadelta,
        optax.adadelta,
        dict(learning_rate=1.0, weight_decay=0.1),
        tuned=dict(learning_rate=10.0),
        exempt=OWN_DEFAULTS,
    ),
    Case(gx.rprop, dict(learning_rate=0.01), reference.rprop, exempt=NO_COMPLEX | NO_COUNT),
    Case(gx.asgd, dict(learning_rate=0.1, t0=3), reference.asgd),
    Case(gx.adam, dict(learning_rate=0.1), reference.adam, optax.adam),
    Case(gx.adam, dict(learning_rate=0.1, b1=0.0, b2=0.5, eps=1e-3), reference.adam, optax.adam),
    Case(gx.adam, dict(learning_rate=0.1, eps_root=1e-3, nesterov=True), reference.adam, optax.adam),
    Case(gx.adam, dict(learning_rate=0.1, bias_correction=False), reference.adam),
    Case(gx.adam, dict(learning_rate=0.1, bias_correction=False, nesterov=True), reference.adam),
    Case(gx.adam, dict(learning_rate=0.1, eps=0.1, eps_root=1e-3, eps_hat=True), reference.adam),
    Case(gx.adamw, dict(learning_rate=0.1), reference.adamw, optax.adamw),
    Case(gx.adamw, dict(learning_rate=0.1, **WD, mask=MASK), reference.adamw, optax.adamw),
    Case(gx.adamw, dict(learning_rate=0.1, **WD, mask=MASK, decay_order="after"), reference.adamw),
    Case(gx.adamw, dict(learning_rate=0.1, **WD, decay_mode="l2"), reference.adamw),
    Case(
        gx.adamw,
        dict(learning_rate=0.1, weight_decay=1e-3, decay_mode="independent"),
        reference.adamw,
        tuned=dict(max_learning_rate=0.1),
    ),
    Case(gx.lion, dict(learning_rate=0.01), reference.lion, optax.lion, tuned=dict(learning_rate=0.02)),
    Case(gx.lion, dict(learning_rate=0.01, b1=0.8, **WD, mask=MASK), reference.lion, optax.lion),
    Case(
        gx.lion,
        dict(learning_rate=0.01, b2=None),
        reference.lion,
        optax.lion,
        optax_kwargs=dict(learning_rate=0.01, b2=0.9),
        tuned=dict(learning_rate=0.02),
    ),
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
        dict(learning_rate=1.0, **WD, variant="mlperf", trust_ratio_mask=MASK, phi_bounds=(0.1, 1.0)),
        reference.lars,
        tuned=LARS,
        elementwise=False,
    ),
    Case(
        gx.lars,
        dict(learning_rate=1.0, **WD, variant="nvidia", trust_ratio_mask=MASK),
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
    Case(  # what clipping does, tests/optimizers/test_large_batch.py has
        gx.lamb,
        dict(learning_rate=0.1, **WD, mask=MASK, variant="mlperf", max_grad_norm=1e9),
        reference.lamb,
        elementwise=False,
    ),
    Case(gx.amsgrad, dict(learning_rate=0.1), reference.amsgrad, optax.amsgrad),
    Case(
        gx.amsgrad,
        dict(learning_rate=0.1, b2=0.9, eps_root=1e-3, bias_correction_mu=False),
        reference.amsgrad,
        optax.amsgrad,
    ),
    Case(gx.amsgrad, dict(learning_rate=0.1, b2=0.9, variant="raw"), reference.amsgrad),
    Case(
        gx.amsgrad,
        dict(learning_rate=0.1, b2=0.9, variant="paper"),
        reference.amsgrad,
        optax.amsgrad,
        optax_kwargs=dict(learning_rate=0.1, b2=0.9, bias_correction_mu=False, bias_correction_nu=False),
    ),
    Case(gx.nadam, dict(learning_rate=0.1), reference.nadam, optax.nadam),
    Case(gx.nadam, dict(learning_rate=0.1, eps_root=1e-3, momentum_decay=0.004), reference.nadam),
    Case(gx.nadamw, dict(learning_rate=0.1), reference.nadamw, optax.nadamw),
    Case(gx.nadamw, dict(learning_rate=0.1, **WD, mask=MASK, momentum_decay=1.0), reference.nadamw),
    Case(gx.adamax, dict(learning_rate=0.1), reference.adamax, optax.adamax),
    Case(gx.adamaxw, dict(learning_rate=0.1, **WD, mask=MASK), reference.adamaxw, optax.adamaxw),
    Case(gx.yogi, dict(learning_rate=0.01), reference.yogi, optax.yogi, tuned=dict(learning_rate=0.1)),
    Case(gx.adabelief, dict(learning_rate=0.1), reference.adabelief, optax.adabelief),
    Case(
        gx.adabelief,
        dict(learning_rate=0.1, eps=1e-8, eps_root=1e-3, nesterov=True),
        reference.adabelief,
        optax.adabelief,
    ),
    Case(
        gx.sign_sgd,
        dict(learning_rate=0.01),
        reference.sign_sgd,
        optax.sign_sgd,
        tuned=dict(learning_rate=0.02),
    ),
    Case(gx.signum, dict(learning_rate=0.01), reference.signum, optax.signum, tuned=dict(learning_rate=0.02)),
    Case(
        gx.fromage,
        dict(learning_rate=0.1),
        reference.fromage,
        optax.fromage,
        elementwise=False,
    ),
    Case(
        gx.optimistic_gradient_descent,
        dict(learning_rate=0.1),
        reference.optimistic_gradient_descent,
        optax.optimistic_gradient_descent,
    ),
    Case(
        gx.optimistic_gradient_descent,
        dict(learning_rate=0.1, alpha=0.8, beta=0.5),
        reference.optimistic_gradient_descent,
        optax.optimistic_gradient_descent,
    ),
    Case(
        gx.optimistic_adam,
        dict(learning_rate=0.1, optimism=0.05, b2=0.99),
        reference.optimistic_adam,
        without_warnings(optax.optimistic_adam),
    ),
    Case(
        gx.optimistic_adam_v2,
        dict(learning_rate=0.1, beta=0.5, b2=0.99),
        reference.optimistic_adam_v2,
        optax.optimistic_adam_v2,
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
        **POLYAK,
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
        **WHOLE_TREE,
    ),
    Case(
        gx.lbfgs,
        dict(learning_rate=0.01, memory_size=3, scale_init_precond=False, linesearch=None),
        reference.lbfgs,
        tuned=dict(learning_rate=0.1),
        **WHOLE_TREE,
    ),
]

# One row for each optimizer, for what does not depend on its variants.
FIRST = list({case.optimizer: case for case in reversed(CASES)}.values())[::-1]
# What works around these works around all, as they differ in what it might trip over: states that are empty,
# nested or lists, reductions, memory, random bits, extra arguments. The others are for `make test-all`.
TYPICAL = {
    gx.sgd, gx.adamw, gx.adafactor, gx.lamb, gx.lbfgs, gx.noisy_sgd, gx.polyak_sgd, gx.ranger, gx.sm3
}  # fmt: skip


def is_typical(case: Any) -> bool:
    return case in FIRST and case.optimizer in TYPICAL


FEW = [pytest.param(case, marks=[] if is_typical(case) else pytest.mark.slow) for case in FIRST]
BY_TX = {case.make(): case for case in CASES}


def exemptions(case: Any, tx: Any) -> dict[str, str]:
    """What a test's row, or the row of a test's transformation, need not pass."""
    row = case if isinstance(case, Case) else BY_TX.get(tx)
    return row.exempt if row else {}
