"""Complex parameters as pairs of real ones."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradx.core.factory import factory
from gradx.core.foreign import blank_of, observe_of, wrapper
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import PART_KEYS, Leaf, Tree, aligned, flatten, is_missing, path_at

__all__ = ["split_real_and_imaginary"]


@dataclasses.dataclass(frozen=True)
class ComplexParts:
    """A node with two children, in the place of a complex array: its real and its imaginary part."""

    real: Leaf
    imag: Leaf


jax.tree_util.register_pytree_with_keys(
    ComplexParts,
    lambda x: (tuple(zip(PART_KEYS, (x.real, x.imag), strict=True)), None),
    lambda _, parts: ComplexParts(*parts),
)


@factory
def split_real_and_imaginary(inner: optax.GradientTransformation) -> GradientTransformation:
    """Give an optimizer the real and the imaginary part of each complex parameter as two real arrays.

        u = inner(real(g), real(p)) + i * inner(imag(g), imag(p))

    gradx's rules use |g|², so the update of a complex parameter has the direction of its gradient. Here each
    part has its own average of squares, as in PyTorch. `optax.contrib` has this function by the same name.

    Arguments:
      inner: any transformation.

    The state has the class of `inner`'s, and its slots are complex arrays of the parameter's shape. Slots
    that no complex array can hold are kept for each part: slots of 16 bits, and slots that an inner `store`
    encodes. Put `store` around, if you use it. Masks and groups see the parameter's path. Real parameters
    pass unchanged, and if no parameter is complex, `inner` runs as it is. `value_fn` is called with complex
    parameters.

    `jax.grad` of a real loss gives the conjugate of the direction in which the loss rises: give
    `jax.tree.map(jnp.conj, grads)`, as to every optimizer of complex parameters.

    Raises TypeError if an update is complex and its parameter is real.

    >>> import gradx, jax.numpy as jnp
    >>> params = {"z": jnp.array([1 + 1j])}
    >>> grads = {"z": jnp.array([3 + 0.1j])}
    >>> for tx in (gradx.adam(0.1), gradx.split_real_and_imaginary(gradx.adam(0.1))):
    ...     updates, _ = tx.update(grads, tx.init(params), params)
    ...     print(f"{complex(updates['z'][0]):.3f}")
    -0.100-0.003j
    -0.100-0.100j
    """
    inner_observe = observe_of("the inner transformation of split_real_and_imaginary", inner)

    def blank(params):
        return blank_of(inner)(split(params))

    def observe(updates, state, params=None, **extra):
        if not any(map(is_complex, jax.tree.leaves((updates, params)))):
            return inner_observe(updates, state, params, **extra)
        gs = split(updates) if params is None else split_beside(updates, params)
        if "value_fn" in extra:
            extra["value_fn"] = of_parts(extra["value_fn"])
        if "grad" in extra:
            extra["grad"] = split(extra["grad"])
        gs, new, reports = inner_observe(gs, split(state), split(params), **extra)
        return merged(gs), merged(new), reports

    return wrapper(inner, lambda params: merged(inner.init(split(params))), observe, blank)


def is_complex(x: Leaf) -> bool:
    return isinstance(x, complex) or jnp.issubdtype(getattr(x, "dtype", bool), jnp.complexfloating)


def is_parts(x: Leaf) -> bool:
    return isinstance(x, ComplexParts)


def split(tree: Tree) -> Tree:
    """A tree with the two parts of each complex array in its place."""
    return jax.tree.map(lambda x: ComplexParts(jnp.real(x), jnp.imag(x)) if is_complex(x) else x, tree)


def split_beside(updates: Tree, params: Tree) -> Tree:
    """The updates, split where their parameters are complex: a real one has an imaginary part of zeros."""
    leaves, treedef = flatten(updates)
    ps = aligned(treedef, params, ("the updates", "the parameters"))
    for i, (g, p) in enumerate(zip(leaves, ps, strict=True)):
        if is_complex(g) and hasattr(p, "dtype") and not is_complex(p):
            raise TypeError(f"the update at {path_at(treedef, i)} is complex, and its parameter is real")
        if is_complex(p) and not is_missing(g):
            leaves[i] = ComplexParts(jnp.real(g), jnp.imag(g))
    return treedef.unflatten(leaves)


def merged(tree: Tree) -> Tree:
    """A tree with complex arrays in place of their parts; parts that no complex array can hold stay."""
    return jax.tree.map(lambda x: whole(x) if is_parts(x) else x, tree, is_leaf=is_parts)


def whole(parts: ComplexParts) -> Leaf:
    dtypes = {getattr(x, "dtype", None) for x in (parts.real, parts.imag)}
    return lax.complex(parts.real, parts.imag) if dtypes <= HALVES and len(dtypes) == 1 else parts


HALVES = {jnp.dtype(jnp.float32), jnp.dtype(jnp.float64)}  # the dtypes of the parts of complex numbers


def of_parts(value_fn: Callable) -> Callable:
    """`value_fn` as a function of the parts of complex parameters."""
    return lambda params, *args, **kwargs: value_fn(merged(params), *args, **kwargs)
