"""Every link with every value of its flags, and its formula in float64, for `tests/test_degenerate.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np

import gradx as gx
from tests import reference
from tests.cases import MASK, Case
from tests.reference import links as formulas
from tests.reference.links import uphill

# Links without a row.
ELSEWHERE = {
    "average_gradients": "it needs devices: tests/distributed/test_local_gradients.py",
    "scale_by_zoom_linesearch": "it needs a loss: tests/transforms/test_linesearch.py",
    "scale_by_backtracking_linesearch": "it needs a loss: tests/transforms/test_linesearch.py",
}


def link(factory: Callable, formula: Callable, **kwargs: Any) -> Case:
    return Case(factory, kwargs, formula)


def array(factory: Callable, formula: Callable, **kwargs: Any) -> Case:
    """A link whose update depends on its whole array."""
    return Case(factory, kwargs, formula, elementwise=False)


def tree(factory: Callable, formula: Callable, extra: Any = {}, **kwargs: Any) -> Case:
    """A link whose update depends on all arrays."""
    return Case(factory, kwargs, formula, elementwise=False, whole_tree=True, extra=extra)


def trace(decay: float, nesterov: bool = False) -> Any:
    return reference.sgd(-1.0, momentum=decay, nesterov=nesterov)


def stddev(**kwargs: Any) -> Any:
    return reference.rmsprop(-1.0, centered=True, **kwargs)


def rprop(**kwargs: Any) -> Any:
    return formulas.negative(reference.rprop(**kwargs))


def polyak(**kwargs: Any) -> Any:
    return reference.polyak_sgd(scaling=-1.0, **kwargs)


def factored_rms(factored: bool = True, step_offset: int = 0, epsilon: float = 1e-30, **kwargs: Any) -> Any:
    renamed: dict[str, Any] = {"decay_offset": step_offset, "eps": epsilon}
    if not factored:
        renamed["min_dim_size_to_factor"] = 9
    if kwargs.get("floor") == "machine":
        renamed["floor"] = float(np.finfo(np.float32).eps)
    fixed = dict(multiply_by_parameter_scale=False, clipping_threshold=None)
    return reference.adafactor(-1.0, **fixed, **kwargs | renamed)


ADAM = uphill(reference.adam)
AMSGRAD = uphill(reference.amsgrad)
BELIEF = uphill(reference.adabelief)
NADAM = uphill(reference.nadam)
RADAM = uphill(reference.radam)
RMS = uphill(reference.rmsprop)
IDENTITY = dict(direction=gx.identity(), learning_rate=0.3, weight_decay=0.1)
FACTORED = dict(min_dim_size_to_factor=2)

LINKS = [
    link(gx.scale, formulas.scale, step_size=-0.3),
    link(gx.scale_by_learning_rate, formulas.scale_by_learning_rate, learning_rate=0.3),
    link(gx.scale_by_learning_rate, formulas.scale_by_learning_rate, learning_rate=0.3, flip_sign=False),
    link(gx.scale_by_schedule, formulas.scale_by_schedule, step_size_fn=gx.linear_schedule(1.0, 0.0, 4)),
    link(gx.scale_by_sign, formulas.sign),
    link(gx.trace, trace, decay=0.9),
    link(gx.trace, trace, decay=0.9, nesterov=True),
    link(gx.ema, formulas.ema, decay=0.9),
    link(gx.ema, formulas.ema, decay=0.9, debias=False),
    link(gx.ema, formulas.ema, decay=0.0),
    link(gx.add_decayed_weights, formulas.add_decayed_weights),
    link(gx.add_decayed_weights, formulas.add_decayed_weights, weight_decay=0.1),
    link(gx.add_decayed_weights, formulas.add_decayed_weights, weight_decay=0.1, mask=MASK),
    link(gx.add_noise, formulas.unchanged, eta=0.0, gamma=0.55, key=0),
    link(gx.descend, formulas.descend, **IDENTITY),
    link(gx.descend, formulas.descend, **IDENTITY, decay_order="before"),
    link(gx.descend, formulas.descend, **IDENTITY, decay_order="after"),
    link(gx.descend, formulas.descend, **IDENTITY, decay_mode="l2"),
    link(gx.descend, formulas.descend, **IDENTITY, decay_mode="independent", max_learning_rate=0.6),
    link(gx.descend, formulas.descend, **IDENTITY, decay_mode="corrected"),
    link(gx.clip, formulas.clip, max_delta=1.0),
    link(gx.clip, formulas.clip, max_delta=0.0),
    link(gx.zero_nans, formulas.zero_nans),
    link(gx.keep_params_nonnegative, formulas.keep_params_nonnegative),
    array(gx.centralize, formulas.centralize),
    array(gx.centralize, formulas.centralize, output_axis=-1),
    array(gx.clip_by_block_rms, formulas.clip_by_block_rms, threshold=1.0),
    tree(gx.clip_by_global_norm, formulas.clip_by_global_norm, max_norm=3.0),  # the norm of nine signs
    tree(gx.clip_by_global_norm, formulas.clip_by_global_norm, max_norm=0.0),
    tree(gx.clip_by_global_norm, formulas.clip_by_global_norm, max_norm=3.0, eps=0.1),
    array(gx.adaptive_grad_clip, formulas.adaptive_grad_clip, clipping=0.1),
    array(gx.adaptive_grad_clip, formulas.adaptive_grad_clip, clipping=0.1, eps=0.0, axis=-1),
    tree(gx.normalize_by_update_norm, formulas.normalize_by_update_norm, scale_factor=-2.0),
    tree(gx.normalize_by_update_norm, formulas.normalize_by_update_norm, eps=0.0),
    array(gx.scale_by_param_block_norm, formulas.scale_by_param_block_norm),
    array(gx.scale_by_param_block_rms, formulas.scale_by_param_block_rms),
    array(gx.scale_by_trust_ratio, formulas.scale_by_trust_ratio),
    array(
        gx.scale_by_trust_ratio, formulas.scale_by_trust_ratio, min_norm=0.1, trust_coefficient=0.5, eps=0.1
    ),
    array(gx.scale_by_trust_ratio, formulas.scale_by_trust_ratio, phi_bounds=(2.0, 3.0)),
    array(gx.scale_by_trust_ratio, formulas.scale_by_trust_ratio, summed_decay=0.1),
    link(gx.scale_by_rss, formulas.scale_by_rss),
    link(gx.scale_by_rss, formulas.scale_by_rss, eps=0.0),
    link(gx.scale_by_rss, formulas.scale_by_rss, eps=0.0, eps_in_sqrt=True),
    link(gx.scale_by_rss, formulas.scale_by_rss, initial_accumulator_value=0.1, eps_in_sqrt=True),
    link(gx.scale_by_rms, RMS),
    link(gx.scale_by_rms, RMS, eps_in_sqrt=True, initial_scale=0.5),
    link(gx.scale_by_rms, RMS, bias_correction=True),
    link(gx.scale_by_rms, RMS, bias_correction=True, eps_in_sqrt=True),
    link(gx.scale_by_stddev, stddev),
    link(gx.scale_by_stddev, stddev, eps_in_sqrt=True, initial_scale=0.5),
    link(gx.scale_by_stddev, stddev, bias_correction=True),
    link(gx.scale_by_stddev, stddev, bias_correction=True, eps_in_sqrt=True),
    link(gx.scale_by_stddev, stddev, bias_correction=True, eps_in_sqrt=True, eps=1.0),
    link(gx.scale_by_adadelta, uphill(reference.adadelta)),
    link(gx.scale_by_rprop, rprop, learning_rate=0.01),
    link(gx.scale_by_rprop, rprop, learning_rate=1.0, min_step_size=0.5, max_step_size=2.0),
    link(gx.scale_by_adam, ADAM),
    link(gx.scale_by_adam, ADAM, nesterov=True),
    link(gx.scale_by_adam, ADAM, bias_correction=False),
    link(gx.scale_by_adam, ADAM, eps_hat=True),
    link(gx.scale_by_adam, ADAM, b1=0.0, b2=0.0),
    link(gx.scale_by_amsgrad, AMSGRAD),
    link(gx.scale_by_amsgrad, AMSGRAD, bias_correction_mu=False),
    link(gx.scale_by_amsgrad, AMSGRAD, bias_correction_nu=False),
    link(gx.scale_by_amsgrad, AMSGRAD, variant="raw"),
    link(gx.scale_by_amsgrad, AMSGRAD, variant="paper"),
    link(gx.scale_by_amsgrad, formulas.scale_by_amsgrad_of_keras, variant="raw", eps_hat=True),
    link(gx.scale_by_adamax, formulas.scale_by_adamax),
    link(gx.scale_by_adamax, formulas.scale_by_adamax, eps_in_max=False),
    link(gx.scale_by_belief, BELIEF),
    link(gx.scale_by_belief, BELIEF, nesterov=True),
    link(gx.scale_by_nadam, NADAM),
    link(gx.scale_by_nadam, NADAM, momentum_decay=0.004),
    link(gx.scale_by_nadam, lambda nesterov: ADAM(), nesterov=False),
    link(gx.scale_by_radam, RADAM),
    link(gx.scale_by_radam, RADAM, nesterov=True),
    link(gx.scale_by_radam, RADAM, eps_before_correction=True),
    link(gx.scale_by_radam, lambda threshold: RADAM(threshold=4.0), threshold=0.0),  # ρ below 4 has no r
    link(gx.scale_by_radam, RADAM, b2=0.5),  # so short that its denominator is never used
    link(gx.scale_by_yogi, formulas.scale_by_yogi),
    link(gx.scale_by_yogi, formulas.scale_by_yogi, initial_accumulator_value=1.0),  # the square of a sign
    link(gx.scale_by_lion, formulas.scale_by_lion),
    link(gx.scale_by_lion, formulas.scale_by_lion, b2=None, variant="smooth", smooth_beta=2.0),
    link(gx.scale_by_lion, formulas.scale_by_lion, variant="refined"),
    link(gx.scale_by_optimistic_gradient, uphill(reference.optimistic_gradient_descent), beta=0.5),
    link(gx.scale_by_adan, uphill(reference.adan), eps_root=0.0),
    array(gx.scale_by_sm3, formulas.scale_by_sm3),
    array(gx.scale_by_sm3, formulas.scale_by_sm3, eps=0.0),
    array(gx.scale_by_sm3, formulas.scale_by_sm3, b2=0.9),
    array(gx.scale_by_novograd, uphill(reference.novograd), eps=1e-8, weight_decay=0.1),
    array(gx.scale_by_factored_rms, factored_rms, **FACTORED),
    array(gx.scale_by_factored_rms, factored_rms, **FACTORED, factored_axes="last", step_offset=2),
    array(gx.scale_by_factored_rms, factored_rms, **FACTORED, factored=False),
    array(gx.scale_by_factored_rms, factored_rms, **FACTORED, epsilon=0.0, floor="machine"),
    array(gx.scale_by_factored_rms, factored_rms, **FACTORED, epsilon=0.0, floor=0.5),
    array(gx.scale_by_factored_rms, factored_rms, **FACTORED, epsilon=0.0, floor=0.5, factored=False),
    tree(gx.scale_by_polyak, polyak, {"value": 1.0}),
    tree(gx.scale_by_polyak, polyak, {"value": 1.0}, f_min=2.0, max_learning_rate=0.1),
    tree(gx.scale_by_polyak, polyak, {"value": 1.0}, f_min=2.0, variant="sps+"),
    tree(gx.scale_by_polyak, polyak, {"value": 1.0}, f_min=0.5, eps=0.1, variant="sps+"),
    tree(gx.scale_by_lbfgs, lambda **kwargs: reference.lbfgs(-1.0, linesearch=None, **kwargs)),
    tree(
        gx.scale_by_lbfgs,
        lambda **kwargs: reference.lbfgs(-1.0, linesearch=None, **kwargs),
        memory_size=2,
        scale_init_precond=False,
        min_curvature=0.0,
    ),
]
