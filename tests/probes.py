"""Probes: for each argument of each factory, values that must give other results than the default does.

`tests/test_every_argument.py` reads them. A probe is found by "factory.argument", or else by "argument"
alone, for all factories; of two factories of one name, "torch.Adam" and "keras.Adam" go first.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gradx as gx


class Problem(NamedTuple):
    """The steps that a transformation is tried on: see `tests.test_every_argument.steps_of`."""

    steps: int = 3  # with 0, only the type of the fresh state is seen
    dtype: str = "float32"  # of the parameters
    bad: tuple[int, ...] = ()  # steps with a gradient of NaN
    scale: float = 1.0  # of the gradients
    columns: int = 3  # of the matrices
    on_devices: bool = False  # on a mesh with the axes "d" and "e", each device with its own gradients
    x64: bool = False


class Probe(NamedTuple):
    """Values of an argument, and under which conditions it matters."""

    values: tuple
    beside: dict[str, Any]  # other arguments
    problem: Problem | None
    alone: bool  # the default is not tried: it is no value of its own, or raises here
    in_state: bool  # the values in the state count too, not only updates and types
    raises: str  # in the error that the last value raises


def probe(
    *values: Any,
    problem: Problem | None = None,
    alone: bool = False,
    in_state: bool = False,
    raises: str = "",
    **beside: Any,
) -> Probe:
    return Probe(values, beside, problem, alone, in_state, raises)


def counts_twin() -> gx.GradientTransformation:
    """Adds the number of arrays in the extra argument `twin`, so that one sees how it was cut."""

    def update(updates, state, params=None, *, twin, **extra):
        return jax.tree.map(lambda u: u + 1.0 * len(jax.tree.leaves(twin)), updates), state

    return gx.GradientTransformation(lambda params: (), update)


def at_even(step, tokens=0.0, **others):
    """For the first step, or if it is given the tokens, for others."""
    return (step + jnp.asarray(tokens, jnp.int32)) % 2 == 0


def at_odd(step, **others):
    return step % 2 == 1


def layer_of(path):
    return 1 if path == "b" else 0


def falls(count):
    return 0.5 ** (1.0 + jnp.asarray(count, float))


def rises(count):
    return 1.0 + jnp.asarray(count, float)


def by_cycle(x):
    return 1.0 / (1.0 + jnp.asarray(x, float))


LONG = Problem(steps=8)
BAD = Problem(bad=(0, 1))
LOW = Problem(dtype="bfloat16")
TYPES = Problem(steps=0)
WIDE = Problem(steps=0, columns=512, dtype="bfloat16")  # an array of 4096 elements
DEVICES = Problem(on_devices=True)
INNER = (gx.sgd(0.1, momentum=0.9), gx.adam(0.1))
SPARED = {"w": False, "b": True}  # a mask for the parameters of the problem
LINEAR, COSINE = gx.linear_schedule(1.0, 0.0, 10), gx.cosine_decay_schedule(1.0, 10)
GROUPS = {"w": gx.sgd(0.1), "b": gx.adam(0.1)}
LABELS = {"w": 0, "b": 1}
PARTS = {0: gx.sgd(0.1), 1: gx.adam(0.1)}

# Arguments of all probes of a factory, beside the probe's own.
BESIDE: dict[str, dict[str, Any]] = {
    "CosineAnnealingLR": dict(T_max=10),
    "CyclicLR": dict(step_size_up=4),
    "OneCycleLR": dict(total_steps=20),
    "ReduceLROnPlateau": dict(patience=1),
    "Rprop": dict(lr=0.1),
    "accumulate": dict(every=2),
    "adafactor": dict(learning_rate=0.1, min_dim_size_to_factor=1),
    "add_noise": dict(key=0),
    "cyclic_schedule": dict(step_size_up=4),
    "cyclic_with_momentum": dict(step_size_up=4),
    "dynamic_loss_scale": dict(init_scale=4.0),
    "join_schedules": dict(boundaries=[5]),
    "keras.Adafactor": dict(learning_rate=0.1),
    "lars": dict(learning_rate=1.0, trust_coefficient=0.1),
    "layerwise_decay": dict(layers=["w", "b"]),
    "lbfgs": dict(linesearch=None, learning_rate=0.1, memory_size=2),
    "noisy_sgd": dict(key=0),
    "reduce_on_plateau": dict(patience=1),
    "scale_by_backtracking_linesearch": dict(max_backtracking_steps=10),
    "scale_by_factored_rms": dict(min_dim_size_to_factor=1),
    "scale_by_lbfgs": dict(memory_size=2),
    "scale_by_zoom_linesearch": dict(max_linesearch_steps=10),
    "scale_learning_rate": dict(batch_size=512),
    "spike": dict(warmup=2),
    "store": dict(codecs=gx.Rounded("bfloat16"), min_size=1, seed=0),
    "torch.Adafactor": dict(lr=0.1),
}
PROBLEMS = {
    "RAdam": LONG,
    "precision": WIDE,
    "radam": LONG,
    "ranger": LONG,
    "scale_by_radam": LONG,
    "stochastic_rounding": LOW,
}

# What comes first is the value of an argument without a default in the probes of the other arguments.
PROBES: dict[str, Probe] = {
    # Numbers and flags of rules.
    "alpha": probe(0.5, 2.0),
    "amsgrad": probe(True, problem=Problem(steps=4), betas=(0.9, 0.5)),
    "b1": probe(0.5),
    "b2": probe(0.5),
    "b3": probe(0.5),
    "beta": probe(0.5),
    "beta2_decay": probe(-0.5),
    "beta_1": probe(0.5),
    "beta_2": probe(0.5),
    "beta_2_decay": probe(-0.5),
    "betas": probe((0.5, 0.999), (0.9, 0.5)),
    "bias_correction": probe(True, False, alone=True),
    "bias_correction_mu": probe(False),
    "bias_correction_nu": probe(False),
    "centered": probe(True),
    "centralized": probe(False),
    "clip_threshold": probe(0.5),
    "clipnorm": probe(0.5),
    "clipping": probe(0.1, 0.2),
    "clipping_threshold": probe(0.5, None),
    "clipvalue": probe(0.5),
    "d": probe(0.5),
    "dampening": probe(0.5, momentum=0.9),
    "debias": probe(False),
    "decay": probe(0.5, 0.75),
    "decay_offset": probe(1),
    "decay_rate": probe(0.5, 0.75),
    "decoupled_weight_decay": probe(True, weight_decay=0.5),
    "epsilon": probe(0.5),
    "epsilon_1": probe(0.5),
    "epsilon_2": probe(2.0),
    "eps": probe(0.5, 0.75),
    "eps_before_correction": probe(True, eps=0.5),
    "eps_hat": probe(True, eps=0.5),
    "eps_in_max": probe(False, eps=0.5),
    "eps_in_sqrt": probe(True, eps=0.5),
    "eps_root": probe(0.5),
    "eta": probe(0.5, 0.75),
    "eta_minus": probe(0.25),
    "eta_plus": probe(1.5),
    "etas": probe((0.25, 1.2), (0.5, 1.5)),
    "f_min": probe(1.0, max_learning_rate=100.0),
    "factored": probe(False),
    "factored_axes": probe("last"),
    "flip_sign": probe(False),
    "floor": probe(2.0, 3.0),
    "gamma": probe(0.25, 0.75),
    "global_clipnorm": probe(0.5),
    "initial_accumulator_value": probe(0.5),
    "initial_scale": probe(0.5),
    "key": probe(1, 2, alone=True),
    "lambd": probe(0.5),
    "learning_rate": probe(0.1, 0.2),
    "lr": probe(0.1, 0.2),
    "lr_decay": probe(0.5),
    "mask": probe("matrices_only", SPARED, weight_decay=0.5),
    "max_delta": probe(0.5, 0.75),
    "max_learning_rate": probe(0.01, 0.02),
    "max_norm": probe(0.5, 0.75),
    "max_step_size": probe(0.1),
    "maximize": probe(True),
    "memory_size": probe(1, 2, alone=True),
    "min_curvature": probe(0.999),
    "min_dim_size_to_factor": probe(3),
    "min_norm": probe(9.0),
    "min_scale": probe(2.0),
    "min_step_size": probe(0.09, eta_minus=0.1),
    "momentum": probe(0.5, 0.75),
    "momentum_decay": probe(0.5),
    "multiply_by_parameter_scale": probe(False),
    "nesterov": probe(True, False, alone=True),
    "optimism": probe(0.5),
    "output_axis": probe(1, -1),
    "phi_bounds": probe((0.0, 0.5), (9.0, 99.0)),
    "rate_in_velocity": probe(
        True, False, alone=True, momentum=0.9, learning_rate=gx.linear_schedule(0.5, 0.1, 2)
    ),
    "relative_step": probe(True, learning_rate=2.0),
    "rho": probe(0.5),
    "scale_factor": probe(2.0),
    "scale_init_precond": probe(False),
    "scaling": probe(0.5),
    "slow_step_size": probe(0.25, sync_period=2),
    "smooth_beta": probe(0.5, variant="smooth"),
    "step_offset": probe(1),
    "step_size": probe(3, 5),
    "step_sizes": probe((0.09, 50.0), (1e-6, 0.1), etas=(0.1, 1.2)),
    "summed_decay": probe(0.5),
    "sync_period": probe(2, 3),
    "t0": probe(0, 1, in_state=True, problem=Problem(steps=4)),
    "threshold": probe(0.5, 0.75),
    "trust_coefficient": probe(0.5),
    "trust_ratio_mask": probe("matrices_only", SPARED),
    "weight_decay": probe(0.5),
    "weight_decay_mask": probe("matrices_only", SPARED, weight_decay=0.5),
    "weight_decay_rate": probe(0.5),
    # Dtypes of slots.
    "accumulator_dtype": probe(jnp.bfloat16, problem=TYPES),
    "dtype": probe(jnp.bfloat16, problem=TYPES),
    "dtype_momentum": probe(jnp.bfloat16, problem=TYPES, momentum=0.9),
    "hyperparam_dtype": probe(jnp.bfloat16, problem=TYPES),
    "mu_dtype": probe(jnp.bfloat16, problem=TYPES),
    # Rules whose arguments matter otherwise.
    "ASGD.alpha": probe(0.5, lambd=0.5),
    "NAdam.momentum_decay": probe(0.5),
    "RAdam.betas": probe((0.5, 0.999), (0.9, 0.9)),
    "SGD.nesterov": probe(True, momentum=0.9),
    "adaptive_grad_clip.axis": probe(-1),
    "adaptive_grad_clip.eps": probe(5.0, 9.0),
    "adafactor.eps": probe(0.5),
    "adafactor.momentum": probe(0.5),
    "adafactor.weight_decay_mask": probe("matrices_only", SPARED, weight_decay_rate=0.5),
    "add_decayed_weights.weight_decay": probe(0.5),
    "add_noise.seed": probe(0, 1, alone=True, key=None),
    "amsgrad.bias_correction_nu": probe(False, b2=0.5),
    "amsgrad.variant": probe("raw", "paper", b2=0.5, problem=Problem(steps=4)),
    "asgd.alpha": probe(0.5, lambd=0.5),
    "clip_by_global_norm.eps": probe(0.5),
    "keras.Adam.amsgrad": probe(True, beta_2=0.5),
    "keras.AdamW.amsgrad": probe(True, beta_2=0.5),
    "lamb.bias_correction": probe(False),
    "lamb.max_grad_norm": probe(0.5, eps=0.5),
    "lamb.variant": probe("mlperf", "nvidia", "nvlamb", mask="matrices_only", eps=0.5),
    "lars.nesterov": probe(True),
    "lars.phi_bounds": probe((0.0, 0.5), (9.0, 99.0)),
    "lars.variant": probe("paper", "nvidia", weight_decay=0.5, trust_ratio_mask="matrices_only"),
    "lbfgs.linesearch": probe(None, gx.scale(0.5), alone=True),
    "masked.mask": probe(True, SPARED, "matrices_only"),
    "freeze.mask": probe(True, SPARED, "matrices_only"),
    "nadam.nesterov": probe(False),
    "noisy_sgd.seed": probe(0, 1, alone=True, key=None),
    "polyak_sgd.eps": probe(0.5, max_learning_rate=100.0),
    "polyak_sgd.variant": probe("sps+", f_min=1e6),
    "radam.threshold": probe(7.0),
    "rmsprop.nesterov": probe(True, momentum=0.9),
    "scale.step_size": probe(0.5, 0.75),
    "scale_by_amsgrad.bias_correction_nu": probe(False, b2=0.5),
    "scale_by_amsgrad.variant": probe("raw", "paper", b2=0.5, problem=Problem(steps=4)),
    "scale_by_factored_rms.decay_rate_fn": probe(lambda step, rate: 0.1 * rate),
    "scale_by_amsgrad.eps_hat": probe(True, variant="raw", eps=0.5),
    "scale_by_lion.b1": probe(0.5, variant="smooth"),
    "scale_by_lion.variant": probe("smooth"),
    "scale_by_polyak.eps": probe(50.0, max_learning_rate=100.0),
    "scale_by_polyak.variant": probe("sps+", f_min=1e6),
    "scale_by_radam.threshold": probe(7.0),
    "scale_by_schedule.step_size_fn": probe(LINEAR, falls),
    "scale_by_trust_ratio.axis_name": probe("d", problem=DEVICES),
    "sgd.accumulator_dtype": probe(jnp.bfloat16, problem=TYPES, momentum=0.9),
    "torch.Adafactor.eps": probe((0.5, 1e-3), (None, 2.0)),
    "torch.RMSprop.alpha": probe(0.5),
    "ema_params.decay": probe(0.5, 0.75, in_state=True),
    "sgd.nesterov": probe(True, momentum=0.9),
    # Wrappers.
    "MultiSteps.every_k_schedule": probe(2, 3),
    "MultiSteps.opt": probe(*INNER),
    "accumulate.drop_nonfinite": probe(True, problem=BAD),
    "apply_if_finite.max_consecutive_errors": probe(0, 1, problem=BAD),
    "average_gradients.axis_name": probe("d", ("d", "e"), problem=DEVICES),
    "average_gradients.weight": probe("tokens", problem=DEVICES),
    "averaged": probe("value", inner=gx.polyak_sgd()),
    "axis_name": probe("d", problem=DEVICES),
    "chain.links": probe((gx.scale(0.5),), (gx.scale(0.5), gx.trace(0.9))),
    "codecs": probe(gx.Rounded("bfloat16"), gx.Float8()),
    "conditions": probe((gx.nonfinite(),), (gx.spike(),), problem=BAD),
    "decay_mode": probe("l2", "independent", "corrected", weight_decay=0.5, max_learning_rate=0.5),
    "decay_order": probe("after", weight_decay=0.5),
    "descend.direction": probe(gx.trace(0.9), gx.scale_by_adam()),
    "descend.max_learning_rate": probe(0.5, 0.75, weight_decay=0.5, decay_mode="independent"),
    "adamw.max_learning_rate": probe(0.5, 0.75, weight_decay=0.5, decay_mode="independent"),
    "dynamic_loss_scale.factor": probe(4.0, growth_interval=1),
    "dynamic_loss_scale.max_scale": probe(8.0, growth_interval=1),
    "dynamic_loss_scale.min_scale": probe(2.0, problem=BAD),
    "every": probe(2, 3, in_state=True),
    "fast_optimizer": probe(*INNER),
    "forward_extra_args": probe(True),
    "freeze_mask": probe(True, SPARED, "matrices_only"),
    "groups.default": probe(gx.sgd(0.1), gx.adam(0.1)),
    "growth_interval": probe(1, 2),
    "init_scale": probe(8.0),
    "inner": probe(*INNER),
    "inner_factory": probe(gx.sgd, gx.rmsprop),
    "layers": probe(["w", "b"], ["b", "w"]),
    "layerwise_decay.decay": probe(0.5),
    "layerwise_decay.num_layers": probe(
        2, 3, alone=True, layers=layer_of, raises="nothing matches 'layer_2'"
    ),
    "mask_compatible_extra_args": probe(
        True,
        inner=counts_twin(),
        mask=SPARED,
        transforms={0: counts_twin(), 1: counts_twin()},
        param_labels=LABELS,
    ),
    "master_weights.dtype": probe(jnp.float64, problem=Problem(steps=0, dtype="bfloat16", x64=True)),
    "max_consecutive": probe(2, problem=BAD, in_state=True),
    "max_size": probe(4),
    "named_chain.links": probe((("a", gx.scale(0.5)),), (("a", gx.scale(0.5)), ("b", gx.trace(0.9)))),
    "norms": probe("gradient", ("update", "parameter")),
    "optimizer": probe(*INNER),
    "param_labels": probe(LABELS, {"w": 1, "b": 0}),
    "policy": probe("bf16-stochastic", "bf16-kahan", "master", "split", "8-bit"),
    "precision.seed": probe(1, 2, problem=LOW),
    "precision.where": probe("^b"),
    "reset_state": probe(True, sync_period=2),
    "rules": probe(GROUPS, {"w": gx.adam(0.1), "b": gx.adam(0.1)}),
    "scaled.factor": probe(0.5, 0.75),
    "seed": probe(1, 2),
    "should_skip_update_fn": probe(gx.skip_not_finite),
    "should_transform_fn": probe(at_even, at_odd),
    "store.min_size": probe(9),
    "signum.beta": probe(0.1),
    "skip_if.axis_name": probe("d", problem=Problem(on_devices=True, bad=(1,))),
    "store.seed": probe(1, 2, alone=True),
    "stacked.rule": probe({"w": 0}, {"w": 1}),
    "start": probe(1, 2, in_state=True),
    "stateless.f": probe(lambda u, p: u, lambda u, p: p),
    "stateless_with_tree_map.f": probe(lambda u, p: u, lambda u, p: p),
    "static_args": probe("momentum"),
    "stacked.tx": probe(gx.scale_by_trust_ratio(), gx.scale_by_factored_rms()),
    "transforms": probe(PARTS, {0: gx.adam(0.1), 1: gx.adam(0.1)}),
    "tx": probe(*INNER),
    "use_grad_mean": probe(False),
    "accumulate.weight": probe("tokens"),
    "where": probe("^b"),
    # What watches: a loss, or the gradients.
    "accumulation_size": probe(2),
    "cooldown": probe(2),
    "early_stopping.patience": probe(1, 2),
    "gradient_noise_scale.decay": probe(0.5),
    "keep_params": probe(False),
    "min_delta": probe(0.5),
    "min_lr": probe(0.05),
    "min_value": probe(0.5),
    "early_stopping.mode": probe("max"),
    "of": probe("gradient_norm"),
    "patience": probe(0, 2),
    "reduce_on_plateau.eps": probe(0.95),
    "ReduceLROnPlateau.eps": probe(0.095),
    "reduce_on_plateau.mode": probe("max"),
    "ReduceLROnPlateau.mode": probe("max"),
    "reduce_on_plateau.threshold": probe(0.25),
    "ReduceLROnPlateau.threshold": probe(0.25),
    "sigmas": probe(1.0),
    "threshold_mode": probe("abs", threshold=0.25),
    "warmup": probe(2, 5),
    "window": probe(2, 3),
    # Schedules.
    "T_0": probe(5, 8),
    "T_max": probe(10, 6),
    "T_mult": probe(2),
    "anneal_strategy": probe("linear"),
    "base_batch_size": probe(64),
    "base_lr": probe(0.1, 0.2),
    "base_momentum": probe(0.5),
    "batch_size": probe(512, 1024),
    "boundaries": probe([5], [8]),
    "boundaries_and_scales": probe({4: 0.5, 8: 0.25}, {4: 0.5, 9: 0.25}, {4: 0.5, 8: 0.5}),
    "constant_schedule.value": probe(1.0, 2.0),
    "cosine_kwargs": probe(
        [dict(init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=8)] * 2,
        [dict(init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=6)] * 2,
    ),
    "cycle_momentum": probe(False),
    "cyclic_schedule.gamma": probe(0.9, mode="exp_range"),
    "cyclic_with_momentum.gamma": probe(0.9, mode="exp_range"),
    "CyclicLR.gamma": probe(0.9, mode="exp_range"),
    "cyclic_with_momentum.momentum": probe((0.5, 0.9), (0.8, 0.99)),
    "decay_steps": probe(10, 8),
    "div_factor": probe(5.0),
    "end_factor": probe(0.5),
    "end_value": probe(0.25, 0.3, decay_rate=0.1),
    "epochs": probe(3, 4, alone=True, total_steps=None, steps_per_epoch=5),
    "eta_min": probe(0.05),
    "exponent": probe(2.0),
    "factor": probe(0.5),
    "final_div_factor": probe(2.0),
    "inclusive": probe(True),
    "init_value": probe(1.0, 0.5),
    "interpolate_type": probe("linear", "cosine", boundaries_and_scales={8: 0.5}),
    "knots": probe({0: 1.0, 9: 0.0}, {0: 1.0, 9: 0.5}, {0: 1.0, 8: 0.0}),
    "lr_lambda": probe(falls, rises),
    "m_mult": probe(2.0),
    "max_lr": probe(1.0, 2.0),
    "max_momentum": probe(0.99),
    "milestones": probe([5], [8]),
    "mode": probe("triangular2", "exp_range", gamma=0.9),
    "one_cycle_schedule.momentum": probe((0.5, 0.95), (0.85, 0.99)),
    "pct_final": probe(0.75),
    "pct_start": probe(0.45),
    "peak_value": probe(2.0, 3.0),
    "power": probe(2.0, 3.0),
    "scale_fn": probe(by_cycle),
    "scale_mode": probe("iterations", scale_fn=by_cycle),
    "scale_learning_rate.rule": probe("sqrt"),
    "schedule": probe(LINEAR, COSINE),
    "schedulers": probe([LINEAR, COSINE], [COSINE, LINEAR], [LINEAR, LINEAR]),
    "schedules": probe([LINEAR, COSINE], [LINEAR, LINEAR]),
    "ChainedScheduler.schedulers": probe([LINEAR, COSINE], [LINEAR, LINEAR]),
    "shape": probe("linear", "cosine"),
    "knots_schedule.shape": probe("cosine"),
    "one_cycle_schedule.shape": probe("linear"),
    "stable_steps": probe(3, 5),
    "staircase": probe(True),
    "start_factor": probe(0.5),
    "step_size_down": probe(2, 6),
    "step_size_up": probe(4, 6),
    "steps": probe(2, -3),
    "steps_per_epoch": probe(5, 4, alone=True, total_steps=None, epochs=4),
    "t_mult": probe(2, 3),
    "three_phase": probe(True),
    "timescale": probe(7.0),
    "total_iters": probe(8),
    "total_steps": probe(20, 15, alone=True),
    "transition_begin": probe(3),
    "transition_steps": probe(10, 8),
    "warmup_steps": probe(3, 5),
}

# The name in an inner factory, where it is not the same: an argument that is passed on needs no probe there.
PASSED_AS = {
    "beta": "decay",
    "beta_1": "b1",
    "beta_2": "b2",
    "clip_threshold": "threshold",
    "clipping_threshold": "threshold",
    "clipvalue": "max_delta",
    "decay_offset": "step_offset",
    "epsilon": "eps",
    "epsilon_1": "epsilon",
    "eps": "epsilon",
    "global_clipnorm": "max_norm",
    "gamma": "decay_rate",
    "lr": "learning_rate",
    "momentum": "decay",
    "rho": "decay",
    "weight_decay_mask": "mask",
    "weight_decay_rate": "weight_decay",
}
# Arguments that are not passed on by their name, although a factory inside has an argument of that name.
OWN_MEANING = {
    "MultiSteps.accumulator_dtype": "of the gradients, and not of the momentum of the optimizer inside",
    "asgd.learning_rate": "the first one, of a schedule that falls",
    "keras.Adadelta.weight_decay": "decoupled, beside a rule without",
    "keras.Lion.weight_decay": "decoupled, beside a rule without",
    "keras.RMSprop.momentum": "0 is no momentum, None",
    "keras.SGD.momentum": "0 is no momentum, None",
    "layerwise_decay.decay": "of the rates of layers, and not of the optimizer's momentum",
    "optimistic_adam.learning_rate": "the alpha of scale_by_optimistic_gradient",
    "stateless_with_tree_map.f": "mapped over the tree",
    "torch.Adafactor.eps": "a pair: the floor and the least scale",
    "torch.Adafactor.weight_decay": "times the learning rate",
    "torch.AdamW.maximize": "turns the gradients once, outside",
    "warmup_cosine_decay_schedule.decay_steps": "of the whole, warm-up included",
    "warmup_schedule.init_value": "of the warm-up, and not of the schedule behind it",
}
# Arguments that are taken, and change nothing: the reason, which the docstring gives too.
IDLE = {"keras.Adafactor.relative_step": "Keras bounds the rate by 1 / √t for either value"}


def space_of(function: Callable) -> str:
    """ "torch.", "keras." or nothing."""
    found = re.match(r"gradx\.(torch|keras)\b", function.__module__)
    return f"{found[1]}." if found else ""


def keys(function: Callable, argument: str = "") -> list[str]:
    """The keys under which a table may have an entry for a factory, or for an argument of it."""
    name, after = function.__name__, f".{argument}" if argument else ""
    return [f"{space_of(function)}{name}{after}", f"{name}{after}", *([argument] if argument else [])]


def found(table: dict[str, Any], keys: list[str], default: Any = None) -> Any:
    return next((table[key] for key in keys if key in table), default)


def made_by(function: Callable, given: dict[str, Any]) -> Any:
    """`function` with arguments by name, of which those without a default have their first probe."""
    signature, arguments = inspect.signature(function), {}
    for name, parameter in signature.parameters.items():
        if name in given:
            arguments[name] = given[name]
        elif parameter.default is parameter.empty:
            arguments[name] = found(PROBES, keys(function, name)).values[0]
    bound = inspect.BoundArguments(signature, arguments)
    return function(*bound.args, **bound.kwargs)


def tries(function: Callable, argument: str, probe: Probe) -> list[tuple[Any, Any]]:
    """Each value of an argument with the object that the function makes of it, all else equal."""
    known = inspect.signature(function).parameters
    beside = found(BESIDE, keys(function), {}) | probe.beside
    beside = {name: value for name, value in beside.items() if name in known and name != argument}
    default = known[argument].default
    values = [*probe.values, *([] if probe.alone or default is inspect.Parameter.empty else [default])]
    return [(value, made_by(function, beside | {argument: value})) for value in values]
