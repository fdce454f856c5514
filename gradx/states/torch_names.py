"""Match torch's parameters to paths, by name or by order."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from gradx.core.tree import Tree, flatten, is_missing, slash_paths

__all__ = []  # internal: `import_torch_state`'s

Id: TypeAlias = int | str  # of a parameter, in torch's state
Groups: TypeAlias = list[dict[str, Any]]
Paths: TypeAlias = Sequence[str] | Mapping[str, str] | None

OWNER = "import_torch_state"
WRAPPERS = {
    "module",
    "_orig_mod",
    "params",
}  # that DDP, torch.compile and Flax put around a whole model
WEIGHTS = {"weight", "kernel", "scale", "embedding"}  # one thing under the names of torch and Flax


class TorchPaths(NamedTuple):
    """The path of each of torch's parameters, by id; torch's name for each path that was found by name."""

    paths: dict[Id, str]
    by_name: dict[str, str]


def torch_paths(groups: Groups, saved: Mapping[Id, object], params: Tree, paths: Paths) -> TorchPaths:
    """The paths of torch's parameters in `params`; an error if a `saved` one, with a state, has no path."""
    ids, names = [i for group in groups for i in group["params"]], names_in(groups)
    leaves = zip(slash_paths(params), flatten(params)[0], strict=True)
    shapes = {path: jnp.shape(p) for path, p in leaves if not is_missing(p)}
    if names is not None and (paths is None or isinstance(paths, Mapping)):
        return by_names(dict(zip(ids, names, strict=True)), saved, list(shapes), dict(paths or {}))
    if isinstance(paths, Mapping):
        raise ValueError(f"{OWNER}: torch's state has no names: give paths as a list, in torch's order")
    order = in_order(ids, names, list(shapes), None if paths is None else list(paths))
    if paths is None and not is_flat(params):
        warn_of_twins([(path, shapes[path]) for path, i in zip(order, ids, strict=True) if i in saved])
    return TorchPaths(dict(zip(ids, order, strict=True)), {})


def by_names(
    names: dict[Id, str], saved: Mapping[Id, object], known: list[str], given: dict[str, str]
) -> TorchPaths:
    """The path of each parameter: the `given` one, or the one that its name matches."""
    strange = [name for name in given if name not in names.values()]
    if strange:
        raise ValueError(f"{OWNER}: paths has {strange}, and torch's names are {list(names.values())}")
    check_paths(list(given.values()), known)
    found = match_names(list(names.values()), known, given)
    paths = given | found
    lost = [name for i, name in names.items() if i in saved and name not in paths]
    if lost:
        free = [path for path in known if path not in paths.values()]
        raise ValueError(
            f"{OWNER}: torch's {lost} match none of the parameters {free}: give paths={{{lost[0]!r}: ...}}, "
            "a dict from torch's names to paths, or a list of paths in torch's order"
        )
    decided = {path: name for name, path in found.items()}
    return TorchPaths({i: paths[name] for i, name in names.items() if name in paths}, decided)


def names_in(groups: Groups) -> list[str] | None:
    """The names in torch's order: from `named_parameters()`, or names in place of ids."""
    named = [group.get("param_names") or group["params"] for group in groups]
    names = [name for some in named for name in some]
    return names if names and all(isinstance(name, str) for name in names) else None


def match_names(names: list[str], paths: list[str], given: dict[str, str]) -> dict[str, str]:
    """The path of each name that has one: the equal path, or the only path with the same bare name."""
    found: dict[str, str] = {}
    for form in (plain, bare):
        theirs = alone(form, [name for name in names if name not in given | found])
        ours = alone(form, [path for path in paths if path not in (given | found).values()])
        found |= {theirs[key]: ours[key] for key in theirs if key in ours}
    return found


def alone(form: Callable[[str], str], names: list[str]) -> dict[str, str]:
    """The names by their form, without names that share a form."""
    by_form = defaultdict(list)
    for name in names:
        by_form[form(name)].append(name)
    return {key: some[0] for key, some in by_form.items() if len(some) == 1}


def plain(name: str) -> str:
    """A name of torch's as a path, `dense.weight` as `dense/weight`."""
    return name.replace(".", "/")


def bare(name: str) -> str:
    """The name without wrappers of the whole model, and without the word for a layer's weights."""
    parts = plain(name).split("/")
    while parts and parts[0] in WRAPPERS:
        parts = parts[1:]
    return "/".join(parts[:-1] if parts and parts[-1] in WEIGHTS else parts)


def is_turned(name: str, path: str) -> bool:
    """Whether torch has (out, in) where Flax has (in, out), which a square matrix does not show."""
    return plain(name).split("/")[-1] == "weight" and path.split("/")[-1] == "kernel"


def check_paths(paths: list[str], known: list[str]) -> None:
    if not set(paths) <= set(known) or len(set(paths)) != len(paths):
        raise ValueError(f"{OWNER}: paths must be different ones of {known}, got {paths}")


def in_order(ids: list[Id], names: list[str] | None, known: list[str], paths: list[str] | None) -> list[str]:
    """The paths in torch's order, given or as the leaves have it; torch's names must not contradict them."""
    order = known if paths is None else paths
    check_paths(order, known)
    if len(order) != len(ids):
        raise ValueError(
            f"{OWNER}: torch's state has {len(ids)} parameters, and there are {len(order)} paths: {order}"
        )
    meant = {} if names is None else match_names(names, known, {})
    for name, path in zip(names or [], order, strict=False):
        if meant.get(name, path) != path:
            raise ValueError(
                f"{OWNER}: paths has {path!r} where torch's name is {name!r}, which is {meant[name]!r}: "
                f"leave paths out, or give a dict, paths={{{name!r}: {path!r}}}, if it is meant"
            )
    return order


def is_flat(params: Tree) -> bool:
    """Whether `params` is a list of arrays, whose order its maker chose; a dict is sorted by its keys."""
    return type(params) in (list, tuple) and len(flatten(params)[0]) == len(params)


def warn_of_twins(shapes: list[tuple[str, tuple]]) -> None:
    """Warn if another order would have fitted too."""
    counts = Counter(shape for _, shape in shapes)
    twins = [path for path, shape in shapes if counts[shape] > 1]
    if twins:
        warnings.warn(
            f"{OWNER}: torch's state has no names, and some of the parameters {twins} have the same shape. "
            "They are taken in the order of the leaves of params. Give paths in torch's order, or save the "
            "state of an optimizer that was made of model.named_parameters()",
            stacklevel=4,
        )
