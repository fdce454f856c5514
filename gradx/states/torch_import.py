"""The state of a transformation from a torch optimizer's `state_dict()`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from gradx.core.foreign import check_transformation
from gradx.core.tree import Tree
from gradx.states.entries import Entry, entries, repacked, unpacked, with_arrays
from gradx.states.slots import replacement
from gradx.states.torch_names import TorchPaths, is_turned, torch_paths

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
    paths: Sequence[str] | Mapping[str, str] | None = None,
    convert: Callable[[str, np.ndarray], Any] | None = None,
    step: int | None = None,
) -> Any:
    """The state of a transformation from a torch optimizer's `state_dict()`, to go on where torch stopped.

    For the optimizers of `gradx.torch`, and others with the same slots, such as `gradx.adamw`, behind a clip
    or not.

    Arguments:
      tx: the transformation, with the hyperparameters of torch's optimizer.
      params: the parameters, already carried over.
      state_dict: of torch's optimizer, not of its model. Torch need not be installed, only to read the file.
      paths: where torch's parameters are, if their names do not say it: a list of paths such as
        "dense/kernel", in torch's order; or a dict from torch's names to paths, for those whose names differ.
        Parameters that are in neither start from `init`.
      convert: a function of a parameter's path and one of its arrays, to transpose it, say; None for none.
      step: the number of steps taken, for SGD, where torch does not count them; None for torch's count.

    torch's state has names if its optimizer was made of `model.named_parameters()`, or if
    `torch.distributed.checkpoint` saved it. Then "dense.weight" is found at "dense/weight"; if that does not
    exist, at the only one of "dense/kernel", "dense/scale", "dense/embedding" and "dense" that does. A
    "module" or "params" around the whole model does not matter. Without names and `paths`, the order of the
    leaves of `params` stands for torch's, with a warning if parameters of a dict have the same shape.

    Raises ValueError, with the names, for names that match no parameter or contradict `paths`, for slots that
    torch's state does not have, or that the transformation has not, for other shapes, for other numbers of
    parameters, and for a `weight` of torch's that is a `kernel` here, if there is no `convert`.

    >>> import gradx, jax.numpy as jnp
    >>> moments = {"step": 3.0, "exp_avg": [0.5, 1.0], "exp_avg_sq": [1.0, 4.0]}
    >>> saved = {"state": {0: moments}, "param_groups": [{"params": [0]}]}
    >>> params = {"w": jnp.ones(2)}
    >>> state = gradx.import_torch_state(gradx.torch.Adam(), params, saved)
    >>> int(gradx.get_slot(state, params, "count")), gradx.get_slot(state, params, "nu")["w"].tolist()
    (3, [1.0, 4.0])
    """
    check_transformation("tx of import_torch_state", tx)  # raises if it is none
    groups, saved = sections(state_dict)
    where = torch_paths(groups, saved, params, paths)
    theirs = {path: arrays_of(path, saved[i], convert) for i, path in where.paths.items() if i in saved}
    fresh = unpacked("import_torch_state", tx, tx.init(params), params)
    found, leaves = entries(fresh, params, whole=True), []
    wrong = [
        *(unnamed(where, {e.path for e in found if e.path is not None}) if paths is None else []),
        *(turned(where, theirs) if convert is None else []),
    ]
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
            leaves.append(value if value is e.array else replacement(e.field, value, e.array))
        except (TypeError, ValueError) as error:
            wrong.append(str(error))
        used |= {(e.path, name) for name in names}
    left = [(path, name) for path, arrays in theirs.items() for name in arrays if (path, name) not in used]
    wrong += [f"torch's {name} of {path} has no slot" for path, name in left]
    if wrong:
        raise ValueError(f"import_torch_state: the states do not fit: {'; '.join(dict.fromkeys(wrong))}")
    return repacked(tx, with_arrays(fresh, leaves), params)


def sections(state_dict: Any) -> tuple[list, dict]:
    """The groups and the states by parameter."""
    try:
        groups = [{**group, "params": list(group["params"])} for group in state_dict["param_groups"]]
        return groups, dict(state_dict["state"])
    except (TypeError, KeyError) as e:
        raise TypeError(
            "import_torch_state: state_dict must be the result of a torch optimizer's state_dict()"
        ) from e


def unnamed(where: TorchPaths, wanted: set[str]) -> list[str]:
    """The error for parameters with slots that none of torch's names match, if torch has names."""
    left = sorted(wanted - set(where.paths.values())) if where.by_name else []
    return [f"torch has no names for {left}: give paths={{}} to start them from init"] if left else []


def turned(where: TorchPaths, theirs: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """The errors for matrices that may be transposed: the shape of a square one does not tell."""
    found = [
        (path, name)
        for path, name in where.by_name.items()
        if is_turned(name, path) and any(x.ndim > 1 for x in theirs.get(path, {}).values())
    ]
    return [
        f"torch's {name} is (outputs, inputs), and {path} may be (inputs, outputs): give convert, "
        "lambda path, x: x.T where it is, and lambda path, x: x where not"
        for path, name in found
    ]


def arrays_of(path: str, state: Mapping[str, Any], convert: Any) -> dict[str, np.ndarray]:
    """One parameter's arrays, in NumPy, after `convert`."""
    arrays = {name: array_of(x) for name, x in state.items() if x is not None}
    if convert is not None:
        arrays = {name: np.asarray(convert(path, x)) if x.ndim else x for name, x in arrays.items()}
    if "prev" in arrays:  # torch has Rprop's last gradient, and uses its sign; here it is the last update
        arrays["prev"] = signed(arrays["step_size"], arrays["prev"])
    return arrays


def signed(size: Any, like: Any) -> Any:
    """Sizes with the signs of other numbers; of complex ones, each part has its own."""
    if np.iscomplexobj(like):
        return signed(size.real, like.real) + 1j * signed(size.imag, like.imag)
    return size * np.sign(like)


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
