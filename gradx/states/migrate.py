"""Carry the state of one transformation over to another."""

import dataclasses
from collections import defaultdict

import jax
import jax.numpy as jnp
import optax

from gradx.codecs.stored import is_stored
from gradx.core.foreign import check_transformation
from gradx.core.tree import Leaf, State, Tree, aligned
from gradx.states.entries import Entry, entries, repacked, short_names, unpacked, with_arrays
from gradx.states.slots import can_hold

__all__ = ["Migration", "migrate"]


@dataclasses.dataclass(frozen=True)
class Migration:
    """The result of `migrate`: the new state, and the (name, path) of arrays kept, made new and dropped.

    `kept` and `new` have names of the new state, `dropped` has names of the old one. It prints as a list.
    """

    state: State
    kept: list[tuple[str, str | None]]
    new: list[tuple[str, str | None]]
    dropped: list[tuple[str, str | None]]

    def __str__(self) -> str:
        what = {"kept": self.kept, "new": self.new, "dropped": self.dropped}
        return "\n".join(f"{word:8}{', '.join(tallied(pairs)) or 'nothing'}" for word, pairs in what.items())


def tallied(pairs: list[tuple[str, str | None]]) -> list[str]:
    """The names, each once, with how many arrays it has."""
    count = defaultdict(int)
    for name, _ in pairs:
        count[name] += 1
    return [name if n == 1 else f"{name} ({n} arrays)" for name, n in count.items()]


def migrate(
    old_state: State,
    old_tx: optax.GradientTransformation,
    new_tx: optax.GradientTransformation,
    params: Tree,
) -> Migration:
    """The state of another transformation, filled from the old one: to change the chain during a run.

    A slot is kept where the new state has a slot of that name for the same parameter, in any chain, group or
    wrapper; where there are several, by the class of the link's state. The rest comes from `init`. A step
    count goes with the slots of its link. One without a counterpart takes the largest old count, so that
    schedules go on, unless all slots of its link start anew.

    Arguments:
      old_state: a state of `old_tx`.
      old_tx, new_tx: any transformations, of Optax too; `packed` may be around the whole of either.
      params: the parameters as they are now, for both.

    Arrays are not copied; they are cast to the dtype of the new state, or to its format under `store`: a run
    may go on with 8 bits, and back. An array of another shape is dropped. Injected hyperparameters are kept
    too: `set_hyperparams` sets others. Raises ValueError if `old_state` is not a state of `old_tx`, or for
    `packed` within a chain.

    >>> import gradx, jax.numpy as jnp
    >>> params = {"w": jnp.ones(2)}
    >>> adam = gradx.adam(1e-3)
    >>> clipped = gradx.chain(gradx.clip_by_global_norm(1.0), gradx.amsgrad(1e-3))
    >>> moved = gradx.migrate(adam.init(params), adam, clipped, params)
    >>> print(moved)
    kept    count, mu, nu
    new     nu_max
    dropped nothing
    >>> state = moved.state
    """
    for name, tx in [("old_tx", old_tx), ("new_tx", new_tx)]:
        check_transformation(f"{name} of migrate", tx)  # raises if it is no transformation
    shape = jax.tree.structure(jax.eval_shape(old_tx.init, params))
    aligned(shape, old_state, ("the state that old_tx makes", "old_state"))
    fresh = unpacked("migrate", new_tx, new_tx.init(params), params)
    ordinary = unpacked("migrate", old_tx, old_state, params)
    old, new = (entries(state, params, whole=True) for state in (ordinary, fresh))
    sources = sources_of(old, new)
    leaves = [e.array for e in new]
    for k, j in sources.items():
        leaves[k] = converted(old[j].array, leaves[k])
    carried = set(sources) | set(going_on(old, new, sources, leaves))
    state = repacked(new_tx, with_arrays(fresh, leaves), params)
    names = [(name, e.path) for name, e in zip(short_names(new), new, strict=True)]
    olds = [(name, e.path) for name, e in zip(short_names(old), old, strict=True)]
    return Migration(
        state,
        kept=[x for k, x in enumerate(names) if k in carried],
        new=[x for k, x in enumerate(names) if k not in carried],
        dropped=[x for k, x in enumerate(olds) if k not in sources.values()],
    )


def sources_of(old: list[Entry], new: list[Entry]) -> dict[int, int]:
    """The old array that each new one takes: the closest by name; for a step count, that of its slots."""
    sources: dict[int, int] = {}
    match_by_name(old, new, sources, {k for k, e in enumerate(new) if e.i is not None})
    # Before the names: an average with the count of another link, or with no array, has wrong weights.
    slots = slots_by_count(new)
    sources |= counts_of_slots(old, new, sources, slots)
    anew = {k for k, own in slots.items() if sources.keys().isdisjoint(own)}
    match_by_name(old, new, sources, {k for k, e in enumerate(new) if e.i is None} - anew)
    return sources


def match_by_name(old: list[Entry], new: list[Entry], sources: dict[int, int], those: set[int]) -> None:
    """For each new array with an unambiguous name, add the old array of that name to `sources`."""
    for alike in (
        lambda e: (e.part, e.owner, e.field, e.i),
        lambda e: (e.owner, e.field, e.i),
        lambda e: (e.field, e.i),
    ):
        theirs, ours = defaultdict(list), defaultdict(list)
        for j in set(range(len(old))) - set(sources.values()):
            theirs[alike(old[j])].append(j)
        for k in those - sources.keys():
            ours[alike(new[k])].append(k)
        for key, ks in ours.items():
            js = theirs[key]
            if len(js) == len(ks):
                pairs = zip(sorted(ks), sorted(js), strict=True)
                sources |= {k: j for k, j in pairs if fits(old[j].array, new[k].array)}


def counts_of_slots(
    old: list[Entry], new: list[Entry], sources: dict[int, int], slots: dict[int, list[int]]
) -> dict[int, int]:
    """The old step count for each new one whose slots all come from slots with one count."""
    count_of, found = {j: k for k, own in slots_by_count(old).items() for j in own}, {}
    for k, own in slots.items():
        theirs = {count_of.get(sources[i]) for i in own if i in sources}
        j = theirs.pop() if len(theirs) == 1 else None
        if j is not None and fits(old[j].array, new[k].array):
            found[k] = j
    return found


def slots_by_count(found: list[Entry]) -> dict[int, list[int]]:
    """The slots that each step count counts: each slot belongs to the closest count around it."""
    counts = [k for k, e in enumerate(found) if is_count(e)]
    slots = defaultdict(list)
    for i, e in enumerate(found):
        around = [k for k in counts if e.i is not None and e.link[: len(found[k].link)] == found[k].link]
        if around:
            slots[max(around, key=lambda k: len(found[k].link))].append(i)
    return slots


def fits(old: Leaf, new: Leaf) -> bool:
    """Whether an array can take the place of another."""
    if old.dtype != new.dtype and jnp.issubdtype(new.dtype, jax.dtypes.extended):
        return False
    return old.shape == new.shape and (old.dtype == new.dtype or can_hold(new.dtype, old.dtype))


def converted(x: Leaf, like: Leaf) -> Leaf:
    """An array in the dtype or format of another; the same object where it already has it."""
    if jax.tree.structure(x) == jax.tree.structure(like) and is_stored(x):
        return x
    x = x.decode() if is_stored(x) else x
    if is_stored(like):
        return like.encode(x)
    return x if x.dtype == like.dtype else x.astype(like.dtype)


def going_on(old: list[Entry], new: list[Entry], sources: dict[int, int], leaves: list[Leaf]) -> list[int]:
    """Start new step counts at the old count; return their positions."""
    steps = [e.array for e in old if is_count(e)]
    if not steps:
        return []
    step = jnp.max(jnp.stack([jnp.max(x) for x in steps]))
    found = []
    for k, e in enumerate(new):
        if is_count(e) and k not in sources:
            neighbours = [j for j, x in enumerate(new) if x.i is not None and x.link[: len(e.link)] == e.link]
            if not neighbours or any(j in sources for j in neighbours):
                leaves[k] = jnp.full_like(leaves[k], step)
                found.append(k)
    return found


def is_count(e: Entry) -> bool:
    """Whether an entry is the step count of a link."""
    return e.field == "count" and e.i is None and jnp.issubdtype(e.array.dtype, jnp.integer)
