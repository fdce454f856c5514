"""gradx in Flax: a Linen train state that passes extra arguments on; NNX models to evaluate; stacked layers.

Only this module imports Flax: `import gradx.flax`. An optimizer does not need it: Flax takes it for Optax's.
"""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import optax

try:
    from flax import linen, nnx, serialization
    from flax.training import train_state
except ImportError as e:
    raise ImportError("gradx.flax needs Flax: pip install 'gradx[flax]'") from e

from gradx.codecs.stored import Stored
from gradx.core.tree import slash_path
from gradx.selection.stacked import Stack
from gradx.states.eval_params import eval_params

__all__ = ["TrainState", "eval_model", "opt_state", "stacked_axes"]


class TrainState(train_state.TrainState):
    """Flax's TrainState, whose `apply_gradients` also takes the extra arguments of `update`.

    >>> import gradx, gradx.flax, jax.numpy as jnp
    >>> tx = gradx.inject_hyperparams(gradx.sgd)(gradx.reduce_on_plateau(0.5, patience=0))
    >>> state = gradx.flax.TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=tx)
    >>> for loss in (1.0, 1.0):
    ...     state = state.apply_gradients(grads={"w": jnp.ones(2)}, extra={"value": loss})
    >>> state.params["w"].tolist()
    [0.0, 0.0]
    """

    def apply_gradients(self, *, grads: Any, extra: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """Take a step.

        Arguments:
          grads: a tree like `params`.
          extra: arguments of `tx.update`, by name, such as the loss, `{"value": loss}`, for a plateau.
          kwargs: fields of the state to replace.
        """
        update = partial(optax.with_extra_args_support(self.tx).update, **(extra or {}))
        with_extra = self.replace(tx=optax.GradientTransformation(self.tx.init, update))
        return super(TrainState, with_extra).apply_gradients(grads=grads, **kwargs).replace(tx=self.tx)

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: an average that the state holds, else `params`."""
        return eval_params(self.opt_state, self.params)


def restored(slot: Stored, arrays: dict[str, Any]) -> Stored:
    """A slot of the same format, from its arrays in Flax's serialization."""
    return dataclasses.replace(slot, arrays=arrays)


serialization.register_serialization_state(Stored, lambda slot: slot.arrays, restored, override=True)

Model = TypeVar("Model", bound=nnx.Module)


def opt_state(optimizer: nnx.Optimizer, model: nnx.Module | None = None) -> Any:
    """The state of an NNX optimizer in plain arrays, as gradx's functions of states take it.

    Arguments:
      optimizer: any.
      model: its model, for states in which a slot is more than one array, as in `store`: NNX replaces the
        node that holds these by another container, and `tx.init` of the model's parameters gives the node
        back.

    >>> import gradx, gradx.flax
    >>> from flax import nnx
    >>> model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    >>> optimizer = nnx.Optimizer(model, gradx.measured(gradx.adamw(1e-3)), wrt=nnx.Param)
    >>> sorted(gradx.metrics(gradx.flax.opt_state(optimizer)))
    ['gradient_norm', 'learning_rate', 'parameter_norm', 'update_norm']
    """
    state = nnx.as_pure(optimizer.opt_state)
    if model is None:
        return state
    params = nnx.as_pure(nnx.state(model, optimizer.wrt))
    structure = jax.tree.structure(jax.eval_shape(optimizer.tx.init, params))
    return jax.tree.unflatten(structure, jax.tree.leaves(state))


def eval_model(optimizer: nnx.Optimizer, model: Model) -> Model:
    """The model to evaluate: with an average of its parameters that the optimizer's state holds.

    Variables that are not trained, such as the statistics of batch normalization, come from `model`.
    Parameters without an average come from there too. `model` itself does not change.
    """
    params = nnx.as_pure(nnx.state(model, optimizer.wrt))
    copy = nnx.clone(model)
    nnx.update(copy, eval_params(opt_state(optimizer, copy), params))
    return copy


def stacked_axes(params: Any, name: str) -> dict[str, Stack]:
    """The rule of `gradx.stacked` for a model that scans over layers: the axes with a name.

    Flax names the axis if `nn.scan` is given `metadata_params={nn.PARTITION_NAME: name}`, or `nnx.vmap` is
    given `transform_metadata`; but only for parameters whose axes have names, made by `with_partitioning` or
    the like. For a model without names, give the path of the scanned layers: `stacked(tx, {"^layers/": 0})`.

    Arguments:
      params: the parameters with their metadata: as Linen's `init` gives them, boxed; or
        `nnx.state(model, nnx.Param)`.
      name: the name of the stacked axis, such as "layers".

    Raises ValueError, with the names that exist, if no axis has it.

    >>> import gradx, gradx.flax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> params = {"layers": {"bias": nn.Partitioned(jnp.ones((3, 2)), names=("layers", None))}}
    >>> gradx.stacked(gradx.lamb(1e-3), gradx.flax.stacked_axes(params, "layers"))
    stacked(lamb(0.001), {'^layers/bias$': 0})
    """
    is_named = lambda x: isinstance(x, nnx.Variable | linen.meta.AxisMetadata)
    leaves, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_named)
    rule, known = {}, set()
    for path, x in leaves:
        names = axis_names(x)
        axes = tuple(i for i, own in enumerate(names) if name in own)
        known = known.union(*names)
        if axes:
            rule[f"^{re.escape(slash_path(path))}$"] = axes[0] if len(axes) == 1 else axes
    if not rule:
        raise ValueError(
            f"stacked_axes: no axis is named {name!r}, and the names are {sorted(known)}: are these the "
            "parameters as Flax initialized them, with their metadata?"
        )
    return rule


def axis_names(x: Any) -> list[tuple[str, ...]]:
    """The names that each axis of a parameter has."""
    names = x.get_metadata().get("out_sharding") if isinstance(x, nnx.Variable) else getattr(x, "names", ())
    return [() if own is None else own if isinstance(own, tuple) else (own,) for own in names or ()]
