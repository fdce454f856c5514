"""Optax, whole, with its names, defaults and conventions; gradx's objects where gradx has the thing.

    import gradx.optax as optax

Each public name and submodule of the installed Optax is here; one that gradx has not is Optax's own.
Numbers are Optax's to rounding, and states go from one to the other. The page "Coming from Optax" has a short
table of differences. `python -m gradx.optax script.py` runs a script with gradx.optax in Optax's place;
`install()` does so for the imports to come.

>>> import gradx.optax as optax
>>> optax.adagrad(0.1).init(0.0)[0].sum_of_squares  # gradx.adagrad starts at 0, as the paper
Array(0.1, dtype=float32)
"""

import sys
import types
from typing import TYPE_CHECKING, Any

import optax

if TYPE_CHECKING:  # so that editors complete Optax's own names; `__getattr__` gives these
    from optax import *  # pyright: ignore[reportWildcardImportFromLibrary]

from gradx import adabelief as adabelief
from gradx import adafactor as adafactor
from gradx import adam as adam
from gradx import adamax as adamax
from gradx import adamaxw as adamaxw
from gradx import adamw as adamw
from gradx import adan as adan
from gradx import adaptive_grad_clip as adaptive_grad_clip
from gradx import add_decayed_weights as add_decayed_weights
from gradx import amsgrad as amsgrad
from gradx import apply_if_finite as apply_if_finite
from gradx import apply_updates as apply_updates
from gradx import centralize as centralize
from gradx import clip as clip
from gradx import clip_by_block_rms as clip_by_block_rms
from gradx import clip_by_global_norm as clip_by_global_norm
from gradx import conditionally_mask as conditionally_mask
from gradx import conditionally_transform as conditionally_transform
from gradx import ema as ema
from gradx import freeze as freeze
from gradx import fromage as fromage
from gradx import global_norm as global_norm
from gradx import identity as identity
from gradx import keep_params_nonnegative as keep_params_nonnegative
from gradx import lamb as lamb
from gradx import lars as lars
from gradx import lbfgs as lbfgs
from gradx import lion as lion
from gradx import masked as masked
from gradx import nadam as nadam
from gradx import nadamw as nadamw
from gradx import named_chain as named_chain
from gradx import normalize_by_update_norm as normalize_by_update_norm
from gradx import novograd as novograd
from gradx import optimistic_adam_v2 as optimistic_adam_v2
from gradx import optimistic_gradient_descent as optimistic_gradient_descent
from gradx import radam as radam
from gradx import scale as scale
from gradx import scale_by_adadelta as scale_by_adadelta
from gradx import scale_by_adam as scale_by_adam
from gradx import scale_by_adamax as scale_by_adamax
from gradx import scale_by_adan as scale_by_adan
from gradx import scale_by_amsgrad as scale_by_amsgrad
from gradx import scale_by_backtracking_linesearch as scale_by_backtracking_linesearch
from gradx import scale_by_belief as scale_by_belief
from gradx import scale_by_factored_rms as scale_by_factored_rms
from gradx import scale_by_lbfgs as scale_by_lbfgs
from gradx import scale_by_novograd as scale_by_novograd
from gradx import scale_by_optimistic_gradient as scale_by_optimistic_gradient
from gradx import scale_by_param_block_norm as scale_by_param_block_norm
from gradx import scale_by_param_block_rms as scale_by_param_block_rms
from gradx import scale_by_polyak as scale_by_polyak
from gradx import scale_by_radam as scale_by_radam
from gradx import scale_by_schedule as scale_by_schedule
from gradx import scale_by_sign as scale_by_sign
from gradx import scale_by_sm3 as scale_by_sm3
from gradx import scale_by_trust_ratio as scale_by_trust_ratio
from gradx import scale_by_yogi as scale_by_yogi
from gradx import scale_by_zoom_linesearch as scale_by_zoom_linesearch
from gradx import selective_transform as selective_transform
from gradx import set_to_zero as set_to_zero
from gradx import sgd as sgd
from gradx import sign_sgd as sign_sgd
from gradx import signum as signum
from gradx import skip_large_updates as skip_large_updates
from gradx import sm3 as sm3
from gradx import stateless as stateless
from gradx import stateless_with_tree_map as stateless_with_tree_map
from gradx import trace as trace
from gradx import tree_map_params as tree_map_params
from gradx import yogi as yogi
from gradx import zero_nans as zero_nans
from gradx.optax import schedules as schedules
from gradx.optax import transforms as transforms
from gradx.optax.installing import install as install
from gradx.optax.installing import uninstall as uninstall
from gradx.optax.rules import MultiSteps as MultiSteps
from gradx.optax.rules import adadelta as adadelta
from gradx.optax.rules import adagrad as adagrad
from gradx.optax.rules import add_noise as add_noise
from gradx.optax.rules import chain as chain
from gradx.optax.rules import inject_hyperparams as inject_hyperparams
from gradx.optax.rules import multi_transform as multi_transform
from gradx.optax.rules import noisy_sgd as noisy_sgd
from gradx.optax.rules import optimistic_adam as optimistic_adam
from gradx.optax.rules import partition as partition
from gradx.optax.rules import polyak_sgd as polyak_sgd
from gradx.optax.rules import rmsprop as rmsprop
from gradx.optax.rules import scale_by_learning_rate as scale_by_learning_rate
from gradx.optax.rules import scale_by_lion as scale_by_lion
from gradx.optax.rules import scale_by_rms as scale_by_rms
from gradx.optax.rules import scale_by_rss as scale_by_rss
from gradx.optax.rules import scale_by_stddev as scale_by_stddev
from gradx.optax.schedules import constant_schedule as constant_schedule
from gradx.optax.schedules import cosine_decay_schedule as cosine_decay_schedule
from gradx.optax.schedules import cosine_onecycle_schedule as cosine_onecycle_schedule
from gradx.optax.schedules import exponential_decay as exponential_decay
from gradx.optax.schedules import join_schedules as join_schedules
from gradx.optax.schedules import linear_onecycle_schedule as linear_onecycle_schedule
from gradx.optax.schedules import linear_schedule as linear_schedule
from gradx.optax.schedules import piecewise_constant_schedule as piecewise_constant_schedule
from gradx.optax.schedules import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from gradx.optax.schedules import polynomial_schedule as polynomial_schedule
from gradx.optax.schedules import sgdr_schedule as sgdr_schedule
from gradx.optax.schedules import warmup_constant_schedule as warmup_constant_schedule
from gradx.optax.schedules import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from gradx.optax.schedules import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule


def __getattr__(name: str) -> Any:
    return getattr(optax, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(optax)})


# So that `import gradx.optax.losses` finds Optax's own.
for name, module in list(vars(optax).items()):
    if isinstance(module, types.ModuleType) and not name.startswith("_"):
        sys.modules.setdefault(f"{__name__}.{name}", module)
