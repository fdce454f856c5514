"""The state of a transformation from a torch optimizer's `state_dict()`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from gradx.core.foreign import linked
from gradx.core.tree import Tree, flatten, is_missing, slash_paths
from gradx.states.entries import Entry, entries, repacked, unpacked, with_arrays
from gradx.states.slots import stored

__all__ = ["import_torch_state"]

# Field of a state -> its names in torch's optimizers.
SOURCES = {
    "trace": ("momentum_buffer",),
    "mu": ("exp_avg", "grad_avg"),
    "nu": ("exp_avg_sq", "square_avg", "exp_inf"),
    "nu_max": ("max_exp_avg_sq",),
    "sum_of_squares": ("sum",),
    "e_g": ("square_avg",),
    "e_x": ("acc_delta",),
    "prev_updates": ("prev",),
    "step_sizes": ("step_size",),
    "average": ("ax",),
    "v": ("variance",),
    "v_row": ("row_var", "col_var"),
    "v_col": ("col_var", "row_var"),
}
SUMMED = {"v_row": -1, "v_col": -2}  # the axis that torch keeps, of length 1
UNUSED = {"v", "v_row", "v_col"}  # of shape (1,) where the array does not need it
DERIVED = {"step", "eta", "mu"}  # the step, and the numbers that follow from it in ASGD


def import_torch_state(
    tx: optax.GradientTransformation,
    params: Tree,
    state_dict: Mapping[str, Any],
    *,
    paths: Sequence[str] | None = None,
    convert: Callable[[str, np.ndarray], Any] | None = None,
    step: int | None = None,
) -> Any:
    """The state of a transformation from a torch optimizer's `state_dict()`, to go on where torch stopped.

    For the optimizers of `gradx.torch`, and others with the same slots, such as `gradx.adamw`, behind a clip
    or not.

    Arguments:
      tx: the transformation, with the hyperparameters of torch's optimizer.
      params: the parameters, already carried over.
      state_dict: of torch's optimizer, not of its model. Only reading the file needs torch.
      paths: the path of each of torch's parameters, in their order: "dense/kernel"; None for the order of
        the leaves of `params`. Parameters that are not listed start from `init`.
      convert: a function of a parameter's path and one of its arrays, for example to transpose it; or None.
      step: the steps taken, for SGD, where torch does not count them; None for torch's own count.

    Raises ValueError, with the names, for slots that only one of the two has, for other shapes, and for
    another number of parameters.

    >>> import gradx, jax.numpy as jnp
    >>> moments = {"step": 3.0, "exp_avg": [0.5, 1.0], "exp_avg_sq": [1.0, 4.0]}
    >>> saved = {"state": {0: moments}, "param_groups": [{"params": [0]}]}
    >>> params = {"w": jnp.ones(2)}
    >>> state = gradx.import_torch_state(gradx.torch.Adam(), params, saved)
    >>> int(gradx.get_slot(state, params, "count")), gradx.get_slot(state, params, "nu")["w"].tolist()
    (3, [1.0, 4.0])
    """
    linked("tx of import_torch_state", tx)  # raises if it is no transformation
    theirs = by_path(state_dict, params, paths, convert)
    fresh = unpacked("import_torch_state", tx, tx.init(params), params)
    found, leaves, wrong = entries(fresh, params, whole=True), [], []
    used = {(path, name) for path, arrays in theirs.items() for name in arrays if name in DERIVED}
    for e in found:
        value, names = e.array, []
        try:
            if e.path in theirs:
                value, names = filled(e, theirs[e.path])
            elif e.field == "count":
                value = common("step", theirs) if step is None else step
            elif e.field == "weights/momentum":
                value = 1 - common("mu_product", theirs)
                used |= {(path, "mu_product") for path in theirs}
            elif e.field.startswith("weights/"):
                raise ValueError(f"{e.field}, of a beta that follows a schedule, is not in torch's state")
            leaves.append(value if value is e.array else stored(e.field, value, e.array))
        except (TypeError, ValueError) as error:
            wrong.append(str(error))
        used |= {(e.path, name) for name in names}
    left = [(path, name) for path, arrays in theirs.items() for name in arrays if (path, name) not in used]
    wrong += [f"torch's {name} of {path} has no slot" for path, name in left]
    if wrong:
        raise ValueError(f"import_torch_state: the states do not fit: {'; '.join(dict.fromkeys(wrong))}")
    return repacked(tx, with_arrays(fresh, leaves), params)


def by_path(state_dict: Any, params: Tree, paths: Any, convert: Any) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each parameter that has any, by torch's names."""
    try:
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        states = state_dict["state"]
    except (TypeError, KeyError) as e:
        raise TypeError(
            "import_torch_state: state_dict must be the result of a torch optimizer's state_dict()"
        ) from e
    known = [
        path for path, p in zip(slash_paths(params), flatten(params)[0], strict=True) if not is_missing(p)
    ]
    order = known if paths is None else list(paths)
    unknown = [path for path in order if path not in known]
    if unknown or len(set(order)) != len(order):
        raise ValueError(f"import_torch_state: paths must be different ones of {known}, got {order}")
    if len(order) != len(ids):
        raise ValueError(
            f"import_torch_state: torch's state has {len(ids)} parameters, and there are {len(order)} "
            f"paths: {order}"
        )
    pairs = [(path, states[i]) for path, i in zip(order, ids, strict=True) if i in states]
    return {path: arrays_of(path, state, convert) for path, state in pairs}


def arrays_of(path: str, state: Mapping[str, Any], convert: Any) -> dict[str, np.ndarray]:
    """One parameter's arrays, in NumPy, after `convert`."""
    arrays = {name: array_of(x) for name, x in state.items() if x is not None}
    if convert is not None:
        arrays = {name: np.asarray(convert(path, x)) if x.ndim else x for name, x in arrays.items()}
    if "prev" in arrays:  # torch has Rprop's last gradient, and uses its sign; here it is the last update
        arrays["prev"] = np.sign(arrays["prev"]) * arrays["step_size"]
    return arrays


def array_of(x: Any) -> np.ndarray:
    """A tensor, array or number in NumPy; bfloat16 becomes float32, which NumPy knows."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x
    return np.asarray(x)


def filled(e: Entry, arrays: dict[str, np.ndarray]) -> tuple[Any, list[str]]:
    """Torch's array for a slot, and its names in torch; the slot itself where it is not used."""
    names = [name for name in SOURCES.get(e.field, ()) if name in arrays]
    if not names:
        if e.field in UNUSED and e.array.shape == (1,):
            return e.array, []
        raise ValueError(f"{e.field} of {e.path} is not in torch's state, which has {sorted(arrays)}")
    axis = SUMMED.get(e.field)
    shape = e.array.shape if axis is None else np.expand_dims(np.empty(e.array.shape), axis).shape
    for name in names:  # the rows of a transposed matrix are columns
        if arrays[name].shape == shape:
            return arrays[name].reshape(e.array.shape), names
    raise ValueError(
        f"{e.field} of {e.path} has shape {e.array.shape}, and torch's {names[0]} {arrays[names[0]].shape}: "
        "give paths in torch's order, and convert to transpose"
    )


def common(name: str, theirs: dict[str, dict[str, np.ndarray]]) -> Any:
    """A number that is the same for all parameters."""
    found = {float(arrays[name]) for arrays in theirs.values() if name in arrays}
    if len(found) != 1:
        what = f"is {sorted(found)} for different parameters" if found else "is not in torch's state"
        raise ValueError(f"{name} {what}" + (": give step=..." if name == "step" else ""))
    number = found.pop()
    return int(number) if name == "step" else number
