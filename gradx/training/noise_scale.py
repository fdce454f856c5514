"""The batch size that is worth its cost, from the gradients of micro-batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradx.core.arguments import scalar
from gradx.core.factory import Made, factory
from gradx.core.foreign import widened
from gradx.core.ranges import DECAY, check_number, declare_ranges
from gradx.core.tree import Tree, norm_of

__all__ = ["GradientNoiseScale", "NoiseScaleState", "gradient_noise_scale"]

declare_ranges("gradient_noise_scale", decay=DECAY)


class NoiseScaleState(NamedTuple):
    """Averages over the steps, from zero; `scale` is the estimate from them."""

    noise: jax.Array  # tr Σ, the variance of the gradient of one row
    signal: jax.Array  # |G|², of the gradient over all rows there are

    @property
    def scale(self) -> jax.Array:
        """The gradient noise scale tr Σ / |G|², in rows; inf while no gradient stands out of the noise."""
        heard = self.signal > 0
        noise = jnp.maximum(self.noise, 0)
        return jnp.where(heard, noise / jnp.where(heard, self.signal, 1), jnp.inf)


class GradientNoiseScale(Made):
    """Made by `gradient_noise_scale`: `init() -> state`, `update(state, ...) -> state`."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def init(self) -> NoiseScaleState:
        """The state before the first step."""
        return NoiseScaleState(jnp.zeros(()), jnp.zeros(()))

    def update(
        self, state: NoiseScaleState, squared_norms: Any, gradient: Tree, batch_size: Any
    ) -> NoiseScaleState:
        """The state after a step, by the gradients of its micro-batches, all of one size.

        Arguments:
          squared_norms: ‖g‖² of the gradient of each micro-batch, an array of two or more.
          gradient: the mean of these gradients.
          batch_size: how many rows they have together.
        """
        if jnp.ndim(squared_norms) != 1 or jnp.size(squared_norms) < 2:
            raise ValueError(
                "gradient_noise_scale: squared_norms must be an array of two numbers or more, one for each "
                f"micro-batch, got one of shape {jnp.shape(squared_norms)}"
            )
        n = jnp.size(squared_norms)
        dtype = state.noise.dtype
        rows = scalar("gradient_noise_scale", "batch_size", batch_size, dtype)
        small = jnp.mean(jnp.asarray(squared_norms, dtype))
        large = norm_of(widened(jax.tree.leaves(gradient))).astype(dtype) ** 2
        noise = (small - large) * (rows / (n - 1))
        signal = (n * large - small) / (n - 1)
        finite = jnp.isfinite(noise) & jnp.isfinite(signal)
        mean = lambda old, new: jnp.where(finite, self.decay * old + (1 - self.decay) * new, old)
        return NoiseScaleState(mean(state.noise, noise), mean(state.signal, signal))


@factory
def gradient_noise_scale(decay: float = 0.99) -> GradientNoiseScale:
    """The batch size up to which a larger one saves steps (McCandlish et al. 2018, arXiv:1812.06162).

        small  = mean of ‖g‖² of n micro-batches,  large = ‖mean g‖²,  of batch_size rows together
        noise  = decay * noise + (1 - decay) * (small - large) * batch_size / (n - 1)
        signal = decay * signal + (1 - decay) * (n * large - small) / (n - 1)
        scale  = noise / signal

    Neither mean is biased, and the start at zero cancels in the ratio. Far below the scale, twice the batch
    needs half the steps; far above, the same number. The scale grows while the loss falls. `init()` makes a
    state, and `update(state, squared_norms, gradient, batch_size)` the next one: pure functions, for `jit`,
    `scan` and `vmap`. `state.scale` is the estimate. A step that is not finite leaves the state as it is.
    Where devices stand for micro-batches, `jax.lax.all_gather` has their squared norms.

    Arguments:
      decay: decay rate of the averages over the steps, at least 0 and less than 1.

    Raises ValueError for fewer than two micro-batches.

    >>> import gradx, jax, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2) / 2  # its gradient is 3, with a variance of 2² over rows
    >>> gradients = gradx.accumulate_gradients(loss, squared_norms=True)
    >>> noise_scale = gradx.gradient_noise_scale()
    >>> def step(state, key):
    ...     batch = gradx.micro_batches(2 * jax.random.normal(key, (64,)), 4)
    ...     _, gradient, squared_norms = gradients(3.0, batch)
    ...     return noise_scale.update(state, squared_norms, gradient, batch_size=64), None
    >>> state, _ = jax.lax.scan(step, noise_scale.init(), jax.random.split(jax.random.key(0), 300))
    >>> bool(abs(state.scale - 2**2 / 3**2) < 0.05)
    True
    """
    check_number("gradient_noise_scale", decay=decay)
    return GradientNoiseScale(decay)
