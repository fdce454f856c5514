"""Optimizers and links that have other defaults or conventions in Optax than in gradx."""

import functools
import inspect
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, ParamSpec

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

import gradx as gx
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import one_of
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import Tree
from gradx.selection.masking import Mask
from gradx.selection.partition import labelled
from gradx.wrappers.multi_steps import Accumulation

__all__ = [
    "MultiSteps",
    "adadelta",
    "adagrad",
    "add_noise",
    "chain",
    "inject_hyperparams",
    "multi_transform",
    "noisy_sgd",
    "optimistic_adam",
    "partition",
    "polyak_sgd",
    "rmsprop",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_stddev",
]

P = ParamSpec("P")


@factory
def chain(*args: optax.GradientTransformation) -> GradientTransformation:
    """`gradx.chain` of at least one link."""
    if not args:
        raise ValueError("chain: give at least one transformation")
    return gx.chain(*args)


def with_defaults(
    ours: Callable[P, GradientTransformation], **defaults: Any
) -> Callable[P, GradientTransformation]:
    """A factory of gradx's with other defaults."""
    signature = inspect.signature(ours)
    names = list(signature.parameters)

    @functools.wraps(ours)
    def make(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        left = {name: value for name, value in defaults.items() if name not in names[: len(args)]}
        call: Callable[..., GradientTransformation] = ours
        return call(*args, **(left | kwargs))

    changed: Any = make
    changed.__signature__ = signature.replace(
        parameters=[p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    )
    said = ", ".join(f"{name}={value}" for name, value in defaults.items())
    changed.__doc__ = f"`gradx.{make.__name__}` with other defaults: {said}."
    changed.__module__ = __name__  # where pickle finds it
    return factory(make)


adagrad = with_defaults(gx.adagrad, initial_accumulator_value=0.1, eps_in_sqrt=True)
rmsprop = with_defaults(gx.rmsprop, eps_in_sqrt=True)
scale_by_rms = with_defaults(gx.scale_by_rms, eps_in_sqrt=True)
scale_by_rss = with_defaults(gx.scale_by_rss, initial_accumulator_value=0.1, eps_in_sqrt=True)
scale_by_stddev = with_defaults(gx.scale_by_stddev, eps_in_sqrt=True)


@factory
def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule | None = None, *, flip_sign: bool = True
) -> GradientTransformation:
    """`gradx.scale_by_learning_rate`; None, the default, changes nothing."""
    if learning_rate is None:
        return gx.identity()
    return gx.scale_by_learning_rate(learning_rate, flip_sign=flip_sign)


@factory
def adadelta(
    learning_rate: ScalarOrSchedule | None = None,
    rho: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = None,
) -> GradientTransformation:
    """`gradx.adadelta`; without a learning rate the sign is kept, so that one has to come after."""
    return gx.chain(
        gx.add_decayed_weights(weight_decay, weight_decay_mask),
        gx.scale_by_adadelta(rho, eps),
        scale_by_learning_rate(learning_rate),
    )


@factory
def scale_by_lion(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule | None = 0.99,
    mu_dtype: Any = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: ScalarOrSchedule = 1.0,
) -> GradientTransformation:
    """`gradx.scale_by_lion`, whose `variant` is `mode` here."""
    one_of("scale_by_lion", ("hard", "smooth", "refined"), mode=mode)
    return gx.scale_by_lion(b1, b2, mu_dtype, variant=mode, smooth_beta=smooth_beta)


@factory
def optimistic_adam(
    learning_rate: ScalarOrSchedule,
    optimism: ScalarOrSchedule | None = None,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> GradientTransformation:
    """`gradx.optimistic_adam`, deprecated."""
    warnings.warn(
        "optimistic_adam is deprecated: use `optimistic_adam_v2` instead", DeprecationWarning, stacklevel=3
    )
    return gx.optimistic_adam(learning_rate, optimism, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


@factory
def polyak_sgd(
    max_learning_rate: ScalarOrSchedule = 1.0,
    scaling: ScalarOrSchedule = 1.0,
    f_min: ScalarOrSchedule = 0.0,
    eps: ScalarOrSchedule = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    """`gradx.polyak_sgd` that scales first, so that the step is found from the norm of scaled gradients."""
    return gx.chain(gx.sgd(scaling), gx.scale_by_polyak(f_min, max_learning_rate, eps, variant))


@factory
def MultiSteps(  # noqa: N802  (Optax's name)
    opt: optax.GradientTransformation,
    every_k_schedule: int | Callable[[Any], Any],
    use_grad_mean: bool = True,
    should_skip_update_fn: optax.ShouldSkipUpdateFunction | None = None,
    accumulator_dtype: DTypeLike = jnp.float32,
) -> Accumulation:
    """`gradx.MultiSteps` that accumulates in float32, and leaves zeros after a step, as Optax needs."""
    tx = gx.MultiSteps(opt, every_k_schedule, use_grad_mean, should_skip_update_fn, accumulator_dtype)

    def observe(updates, state, params=None, **extra):
        updates, new, reports = tx.observe(updates, state, params, **extra)
        emptied = jax.tree.map(lambda acc: jnp.where(new.mini_step == 0, 0, acc), new.acc_grads)
        return updates, new._replace(acc_grads=emptied), reports

    return Accumulation.of(tx.init, observe, tx.blank, exact=tx.exact, inner_opt=opt)


@factory
def add_noise(
    eta: ScalarOrSchedule,
    gamma: ScalarOrSchedule,
    key: jax.Array | int | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """`gradx.add_noise`; without a key it warns and takes 0."""
    return gx.add_noise(eta, gamma, key_of(key, seed))


@factory
def noisy_sgd(
    learning_rate: ScalarOrSchedule,
    eta: ScalarOrSchedule = 0.01,
    gamma: ScalarOrSchedule = 0.55,
    key: jax.Array | int | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """`gradx.noisy_sgd`; without a key it warns and takes 0."""
    return gx.noisy_sgd(learning_rate, eta, gamma, key_of(key, seed))


def key_of(key: jax.Array | int | None, seed: int | None) -> jax.Array | int:
    """The key, by its old name or its new one, or 0."""
    if seed is not None:
        warnings.warn('"seed" is deprecated: use "key"', DeprecationWarning, stacklevel=4)
        if key is not None:
            raise ValueError("Only one of seed or key can be specified.")
        return seed
    if key is None:
        warnings.warn("without a key, the noise is that of key 0, in each run the same", stacklevel=4)
        return 0
    return key


@factory
def partition(
    transforms: Mapping[Hashable, optax.GradientTransformation],
    param_labels: Tree | Callable[[Tree], Tree],
    *,
    mask_compatible_extra_args: bool = False,
) -> GradientTransformation:
    """`gradx.partition`, which only warns of a transformation whose label no parameter has."""
    return labelled("partition", transforms, param_labels, mask_compatible_extra_args, idle=warned)


multi_transform = partition


def warned(message: str) -> None:
    warnings.warn(message, stacklevel=2)  # once for each text, unless Python is told otherwise


def inject_hyperparams(
    inner_factory: Callable[..., optax.GradientTransformation],
    static_args: str | list[str] | tuple[str, ...] | set[str] = (),
    hyperparam_dtype: DTypeLike | None = None,
) -> Callable[..., GradientTransformation]:
    """`gradx.inject_hyperparams`: numbers are float32 in the state, unless `hyperparam_dtype` is given."""
    try:
        if hyperparam_dtype is None:
            return gx.inject_hyperparams(inner_factory, static_args)
        return gx.inject_hyperparams(inner_factory, static_args, hyperparam_dtype)
    except KeyError as e:
        raise ValueError(f"`static_args` must specify a subset of the parameters: {e.args[0]}") from e
