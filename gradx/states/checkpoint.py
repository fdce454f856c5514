"""Parameters and state on disk, through Orbax: by name, whole or not at all."""

import pathlib
import re
import shutil
from types import ModuleType
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
import optax

from gradx.core.foreign import check_transformation
from gradx.core.tree import Leaf, State, Tree, flatten, is_missing, slash_paths
from gradx.states.entries import Entry, entries, full_names
from gradx.states.multihost import check_seen, check_shared, is_local, of_first, without_local
from gradx.states.restore_plan import abstract_state, empty, like_given, placement, raw

__all__ = ["Checkpoint", "latest_checkpoint", "restore_checkpoint", "save_checkpoint"]

Arrays: TypeAlias = dict[str, Leaf]  # by name


class Checkpoint(NamedTuple):
    """The result of `restore_checkpoint`: the step, the parameters, the state, and the extra values."""

    step: int
    params: Tree
    state: State
    extra: Tree


def save_checkpoint(
    path: str | pathlib.Path,
    step: int,
    params: Tree,
    state: State,
    *,
    extra: Tree = None,
    keep: int | None = None,
) -> None:
    """Write parameters and state of a step to a new folder, `path/step`, whole or not at all.

    A run that is killed here leaves the earlier checkpoints, and no broken one. Arrays are saved by name, as
    in `slots`, with their dtypes, 16-bit ones and random keys too. Where there are several processes, all
    call it: each writes its parts of global arrays, the first the local arrays, which must be equal.

    Arguments:
      path: a folder for the checkpoints of one run, on a disk that all processes share; made if missing.
      step: at least 0; ValueError if the step has a checkpoint already.
      params: the parameters.
      state: of any transformation.
      extra: any other pytree of arrays and numbers, such as a random key or the place in the data.
      keep: how many checkpoints to keep, at least 1; None for all. The lowest steps are deleted.

    Needs Orbax: `pip install 'gradx[checkpoint]'`. Raises TypeError for leaves that are no arrays or
    numbers, ValueError for a folder that is not shared, and for values that differ between processes.

    >>> import gradx, jax.numpy as jnp, tempfile
    >>> params, tx = {"w": jnp.ones(2)}, gradx.adam(1e-3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gradx.save_checkpoint(folder, 7, params, tx.init(params))
    ...     found = gradx.restore_checkpoint(folder, tx, params)
    >>> found.step, found.params["w"].tolist(), int(found.state[0].count)
    (7, [1.0, 1.0], 0)
    """
    owner = "save_checkpoint"
    ocp, folder = orbax(owner), pathlib.Path(path).absolute()
    for name, value, least in [("step", step, 0), ("keep", 1 if keep is None else keep, 1)]:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{owner}: {name} must be an integer of at least {least}, got {value!r}")
    if of_first(step if step in steps(folder) else None) is not None:
        raise ValueError(f"{owner}: there is a checkpoint of step {step} in {folder}")
    arrays = {name: array_of(name, x) for name, x in named(params, state, extra).items()}
    written = without_local({name: raw(x) for name, x in arrays.items() if x.size})
    first = jax.process_index() == 0
    folder.mkdir(parents=True, exist_ok=True)
    if first:
        tidy(folder)
    check_shared(folder, f"shared{DELETED}")
    args = ocp.args.Composite(
        arrays=ocp.args.PyTreeSave(written),
        manifest=ocp.args.JsonSave(manifest_of(arrays, params, state)),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder / str(step), args=args)
    if first and keep is not None:
        for old in steps(folder)[:-keep]:
            # Renamed first: a folder that is half deleted must not look like a checkpoint.
            (folder / str(old)).rename(folder / f"{old}{DELETED}")
        tidy(folder)


def latest_checkpoint(path: str | pathlib.Path) -> int | None:
    """The highest step that has a checkpoint in a folder; None if there is none.

    Where there are several processes, all call it, and all get the answer of the first.

    Arguments:
      path: as in `save_checkpoint`.
    """
    return of_first(max(steps(pathlib.Path(path)), default=None))


def restore_checkpoint(
    path: str | pathlib.Path,
    tx: optax.GradientTransformation,
    params: Tree,
    *,
    extra: Tree = None,
    step: int | None = None,
    state_sharding: Tree | None = None,
) -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`, for a transformation that has the same slots.

    Links without a state, such as clips, may come and go; for another chain, restore with the old one and
    then `migrate`. Processes and devices may be others than at the time of saving; all processes call it.

    Arguments:
      path: as in `save_checkpoint`.
      tx: the transformation of the state.
      params: parameters like the saved ones, as arrays, or `jax.ShapeDtypeStruct`s with their shardings. They
        give the structure, dtypes and shardings, and through `tx.init` also those of the state.
      extra: a pytree like the saved one; None leaves it out.
      step: the step to restore; None for the latest.
      state_sharding: a tree of shardings for the arrays of the state, from the function of this name; None
        for the shardings that `tx.init` gives.

    Every array is new and may be donated. Needs Orbax: `pip install 'gradx[checkpoint]'`. Raises
    FileNotFoundError if there is no checkpoint, and ValueError for a checkpoint of something else, with the
    names of the arrays that are missing, left over, or of another shape or dtype.
    """
    owner = "restore_checkpoint"
    ocp, folder = orbax(owner), pathlib.Path(path).absolute()
    check_transformation("tx of restore_checkpoint", tx)  # raises if it is no transformation
    known = steps(folder)
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    step = max(known, default=None) if step is None else step
    step = of_first(step if step in known else None)
    if step is None:
        raise FileNotFoundError(f"{owner}: {which} in {folder}; there are checkpoints of {known}")
    check_seen(owner, folder / str(step))
    if not (folder / str(step) / "manifest").exists():
        raise ValueError(f"{owner}: {folder / str(step)} was not made by save_checkpoint")
    state = abstract_state(tx, params, state_sharding)
    likes = named(params, state, extra)
    asked = manifest_of(likes, params, state)
    arrays = read(ocp, folder / str(step), likes, asked, with_extra=extra is not None)
    leaves = iter([like_given(arrays[k] if k in arrays else empty(x), x) for k, x in likes.items()])
    return Checkpoint(step, *(jax.tree.map(lambda _: next(leaves), tree) for tree in (params, state, extra)))


DELETED = ".deleted"


def orbax(owner: str) -> ModuleType:
    """The package, imported where it is used: it takes half a second."""
    try:
        import orbax.checkpoint
    except ImportError as e:
        raise ImportError(f"{owner} needs Orbax: pip install 'gradx[checkpoint]'") from e
    return orbax.checkpoint


def steps(folder: pathlib.Path) -> list[int]:
    """The steps of complete checkpoints, in order: Orbax renames a folder last, when all is in it."""
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name))


def tidy(folder: pathlib.Path) -> None:
    """Remove the unfinished folders of runs that were killed."""
    for left in folder.iterdir():
        if left.name.endswith(DELETED) or re.match(r"\d+\.orbax-checkpoint-tmp", left.name):
            shutil.rmtree(left)


def named(params: Tree, state: State, extra: Tree) -> Arrays:
    """All arrays by name, in the order of the leaves."""
    ps, qs = ((slash_paths(tree), flatten(tree)[0]) for tree in (params, extra))
    pairs = [(f"params/{path}", x) for path, x in zip(*ps, strict=True) if not is_missing(x)]
    pairs += [(name, e.array) for name, e in of_state(params, state)]
    pairs += [(f"extra/{path}", x) for path, x in zip(*qs, strict=True) if not is_missing(x)]
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"a checkpoint saves arrays by name, and these names stand for two arrays: {twice}")
    return out


def of_state(params: Tree, state: State) -> list[tuple[str, Entry]]:
    """The arrays of a state, by name."""
    found = entries(state, params)
    tail = lambda e: "" if e.path is None else f"/{e.path}"
    return [(f"state/{name}{tail(e)}", e) for name, e in zip(full_names(found), found, strict=True)]


def manifest_of(arrays: Arrays, params: Tree, state: State) -> dict[str, str]:
    """The dtype and shape of each array, and the codec without which its bits mean nothing."""
    codecs = {name: f" of {e.codec!r}" for name, e in of_state(params, state) if e.codec is not None}
    return {name: described(array_of(name, x)) + codecs.get(name, "") for name, x in arrays.items()}


def read(
    ocp: ModuleType, folder: pathlib.Path, likes: Arrays, asked: dict[str, str], with_extra: bool
) -> Arrays:
    """The arrays of a checkpoint that has exactly the arrays asked for."""
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restore = lambda **args: checkpointer.restore(folder, args=ocp.args.Composite(**args))
        manifest = restore(manifest=ocp.args.JsonRestore())["manifest"]
        if not with_extra:
            manifest = {name: x for name, x in manifest.items() if not name.startswith("extra/")}
        check(f"restore_checkpoint: {folder}", manifest, asked)
        targets = {}
        for name, x in likes.items():
            at = placement(x)
            on_host = ocp.RestoreArgs(restore_type=np.ndarray)
            if array_of(name, x).size:
                targets[name] = on_host if at is None or is_local(x) else ocp.ArrayRestoreArgs(sharding=at)
        args = ocp.args.PyTreeRestore(dict.fromkeys(targets, 0), restore_args=targets, partial_restore=True)
        return restore(arrays=args)["arrays"]


def array_of(name: str, x: Leaf) -> Leaf:
    """An array; a number as a NumPy scalar."""
    if isinstance(x, bool | int | float | complex | np.generic):
        return np.asarray(x)
    if not hasattr(x, "dtype") or not hasattr(x, "shape") or x.dtype == object:
        raise TypeError(f"a checkpoint holds arrays and numbers, and {name} is {x!r}")
    return x


def described(x: Leaf) -> str:
    """Dtype and shape, as in the manifest."""
    return f"{x.dtype}{list(x.shape)}"


def check(what: str, saved: dict[str, str], asked: dict[str, str]) -> None:
    """Raise unless the names, dtypes, shapes and formats that were saved are those asked for."""
    both = [name for name in asked if name in saved and asked[name] != saved[name]]
    wrong = {
        "missing from it": [name for name in asked if name not in saved],
        "left over in it": [name for name in saved if name not in asked],
        "different": [f"{name} ({saved[name]} in it, {asked[name]} asked for)" for name in both],
    }
    if any(wrong.values()):
        lists = "; ".join(f"{word}: {', '.join(names)}" for word, names in wrong.items() if names)
        raise ValueError(
            f"{what} was saved for other parameters or another transformation. {lists}. Restore it with the "
            "transformation that it was saved with, then use migrate for another"
        )
