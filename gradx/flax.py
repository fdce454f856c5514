"""gradx in Flax: a Linen train state that passes extra arguments on; NNX models to evaluate.

The only module that imports Flax: `import gradx.flax`. An optimizer needs none of it: to Flax it is Optax's.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import optax

try:
    from flax import nnx, serialization
    from flax.training import train_state
except ImportError as e:
    raise ImportError("gradx.flax needs Flax: pip install 'gradx[flax]'") from e

from gradx.codecs.stored import Stored
from gradx.states.eval_params import eval_params

__all__ = ["TrainState", "eval_model", "opt_state"]


class TrainState(train_state.TrainState):
    """Flax's TrainState, whose `apply_gradients` takes what a transformation must be told besides.

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
        told = self.replace(tx=optax.GradientTransformation(self.tx.init, update))
        return super(TrainState, told).apply_gradients(grads=grads, **kwargs).replace(tx=self.tx)

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: an average that the state holds, else `params`."""
        return eval_params(self.opt_state, self.params)


def restored(slot: Stored, arrays: dict[str, Any]) -> Stored:
    """A slot of the same format, from what Flax's serialization has of it."""
    return dataclasses.replace(slot, arrays=arrays)


serialization.register_serialization_state(Stored, lambda slot: slot.arrays, restored, override=True)

Model = TypeVar("Model", bound=nnx.Module)


def opt_state(optimizer: nnx.Optimizer, model: nnx.Module | None = None) -> Any:
    """The state of an NNX optimizer in plain arrays, as gradx's functions of states take it.

    Arguments:
      optimizer: any.
      model: its model; needed where slots are more than an array each, as in `store`: NNX replaces what holds
        them by a container of its own, and what `tx.init` makes for the model says what it was.

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

    What is not trained, such as the statistics of batch normalization, is that of `model`, which itself stays
    as it is; so does everything where there is no average.
    """
    params = nnx.as_pure(nnx.state(model, optimizer.wrt))
    copy = nnx.clone(model)
    nnx.update(copy, eval_params(opt_state(optimizer, copy), params))
    return copy
