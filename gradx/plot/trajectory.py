"""The paths of transformations on a surface."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradx.core.apply import apply_updates
from gradx.core.foreign import observe_of
from gradx.core.ranges import positive_integer
from gradx.plot.canvas import Axes, labels_of, legend, new_axes, style

__all__ = ["plot_trajectory", "trajectory"]


def trajectory(
    f: Callable[[jax.Array], jax.Array], tx: optax.GradientTransformation, start: Any, steps: int
) -> jax.Array:
    """The points that a transformation visits on a function of two coordinates, in one compiled scan.

    Arguments:
      f: gives a scalar for an array of shape (2,).
      tx: any optimizer of gradx or Optax; `update` is given `value`, `grad` and `value_fn` too.
      start: the first point, of shape (2,).
      steps: at least 1.

    Returns an array of shape (steps + 1, 2). Raises ValueError or TypeError for another `start` or `f`.

    >>> import gradx, gradx.plot
    >>> gradx.plot.trajectory(lambda xy: (xy**2).sum(), gradx.sgd(0.25), (4.0, -2.0), 2).tolist()
    [[4.0, -2.0], [2.0, -1.0], [1.0, -0.5]]
    """
    positive_integer("trajectory", steps=steps)
    return visited(f, tx, checked_start("trajectory", f, start), steps)


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def visited(f: Callable, tx: optax.GradientTransformation, start: jax.Array, steps: int) -> jax.Array:
    observe = observe_of("tx of trajectory", tx)

    def step(carry, _):
        xy, state = carry
        value, grad = jax.value_and_grad(f)(xy)
        updates, state, _ = observe(grad, state, xy, value=value, grad=grad, value_fn=f)
        xy = apply_updates(xy, updates)
        return (xy, state), xy

    _, points = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    return jnp.concatenate([start[None], points])


def point(owner: str, name: str, given: Any) -> jax.Array:
    """Two coordinates."""
    xy = jnp.asarray(given, float)
    if xy.shape != (2,):
        raise ValueError(f"{owner}: {name} must be of shape (2,), x and y, got {given!r}")
    return xy


def checked_start(owner: str, f: Callable, start: Any) -> jax.Array:
    """The start as an array; raises unless `f` gives a scalar there."""
    xy = point(owner, "start", start)
    wanted = f"{owner}: f must give a scalar for one array of shape (2,), like lambda xy: xy[0]**2 + xy[1]**2"
    try:
        out = jax.eval_shape(f, xy)
    except (TypeError, ValueError) as e:
        raise TypeError(f"{wanted}; it failed: {e}") from e
    if not hasattr(out, "shape") or out.shape:
        raise TypeError(f"{wanted}; got {out}")
    return xy


def plot_trajectory(
    f: Callable[[jax.Array], jax.Array],
    *transformations: optax.GradientTransformation,
    start: Any,
    steps: int,
    labels: Sequence[str] | None = None,
    minimum: Any = None,
    bounds: tuple[tuple[float, float], tuple[float, float]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the paths of transformations on a surface, over its contours; returns Matplotlib's axes.

    Contours are at quantiles of the values in the picture, denser at low values: they are at even distances
    around the minimum of a quadratic, however narrow, and in a curved valley too. A path has
    some 20 markers, at equal numbers of steps.

    Arguments:
      f: gives a scalar for an array of shape (2,).
      transformations: one or more optimizers, each as `trajectory` takes it.
      start: the first point, of shape (2,).
      steps: at least 1.
      labels: a name for each; their calls if not given.
      minimum: a point to mark, of shape (2,).
      bounds: the bounds of the picture, ((x0, x1), (y0, y1)). By default it holds the paths, without points
        that are further above the start than the start is above the least value found.
      ax: the axes to draw into; new ones if not given.

    Raises ValueError and TypeError as `trajectory` does, and ValueError if the number of labels differs from
    the number of transformations.
    """
    owner = "plot_trajectory"
    positive_integer(owner, steps=steps)
    names = labels_of(owner, "transformation", transformations, labels)
    marked = {"start": checked_start(owner, f, start)}
    marked |= {} if minimum is None else {"minimum": point(owner, "minimum", minimum)}
    paths = [np.asarray(visited(f, tx, marked["start"], steps)) for tx in transformations]
    (x0, x1), (y0, y1) = bounds or room(f, np.concatenate([*paths, *([xy] for xy in marked.values())]))
    is_new = ax is None
    ax = new_axes(height=4.5) if ax is None else ax
    x, y = np.linspace(x0, x1, 201), np.linspace(y0, y1, 201)
    z = surface(f, np.stack(np.meshgrid(x, y), axis=-1))
    levels = np.unique(np.quantile(z[np.isfinite(z)], np.linspace(0, 1, 18)[1:-1] ** 2))
    ax.contour(x, y, np.ma.masked_invalid(z), levels=levels, colors="0.75", linewidths=0.7, linestyles="-")
    for i, (path, name) in enumerate(zip(paths, names, strict=True)):
        own = style(i, steps)
        own |= {"marker": own["marker"] or "x", "markevery": max(1, steps // 20)}
        ax.plot(*path.T, label=name, **own)
    for name, marker, size in (("start", "o", 9), ("minimum", "*", 14)):
        if name in marked:
            ends = {"markerfacecolor": "white", "markeredgecolor": "black", "zorder": 3}
            ax.plot(*np.asarray(marked[name])[:, None], marker, label=name, markersize=size, **ends)
    ax.set(xlabel="x", ylabel="y", xlim=(x0, x1), ylim=(y0, y1))
    legend(ax, ax.get_lines(), grow=is_new)
    return ax


def surface(f: Callable, points: np.ndarray) -> np.ndarray:
    """The values of `f` at points, in an array without their last axis."""
    flat = jax.jit(jax.vmap(f))(jnp.asarray(points.reshape(-1, 2), float))
    return np.asarray(flat, float).reshape(points.shape[:-1])


def room(f: Callable, points: np.ndarray) -> Any:
    """Bounds around the points that are not far above the first, with a margin."""
    z = surface(f, points)
    first = z[0]
    if not np.isfinite(first):
        raise ValueError(f"plot_trajectory: f is {first} at the start")
    least = np.min(z[np.isfinite(z)])
    points = points[z <= first + (first - least)]  # not so for NaN
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.maximum(0.1 * (high - low), 0.05 * (np.max(high - low) or 1.0))
    return tuple(zip(low - margin, high + margin, strict=True))
