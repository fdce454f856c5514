"""Two options of `migrate` at once: whatever is around an optimizer before and after, its slots go over."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path

import gradx as gx
from tests.pairs import described, pairwise
from tests.problems import aval

# Parameters named like slots and counts, and one below another's name.
PARAMS = {
    "mu": {"count": jnp.ones((2, 3)), "nu": jnp.ones(2)},
    "nu": jnp.ones(3),
    "trace": {"mu": jnp.ones(2)},
}
SLOTS = {"mu", "nu", "nu_max", "trace"}
RATE = gx.cosine_decay_schedule(0.1, 50)
everything = lambda params: jax.tree.map(lambda _: True, params)
ADAM = gx.scale_by_adam()
AROUND = {
    "nothing": lambda tx: tx,
    "named": lambda tx: gx.named_chain(("clip", gx.clip(1.0)), ("rest", tx)),
    "skip_if": lambda tx: gx.skip_if(tx, gx.nonfinite()),
    "accumulate": lambda tx: gx.accumulate(tx, 2, weight="n"),
    "lookahead": gx.lookahead,
    "masked": lambda tx: gx.masked(tx, everything),
    "groups": lambda tx: gx.groups(tx, {"^nu$": tx}),
    "packed": gx.packed,
}
MAKES = {
    "adam": lambda: gx.adam(0.1),
    "adamw": lambda: gx.adamw(RATE),
    "amsgrad": lambda: gx.amsgrad(0.1),
    "momentum": lambda: gx.sgd(0.1, momentum=0.9),
    "low": lambda: gx.adam(RATE, mu_dtype=jnp.bfloat16),
    "injected": lambda: gx.inject_hyperparams(gx.adamw)(RATE),
}
OPTIONS = {"old": list(MAKES), "around_old": list(AROUND), "new": list(MAKES), "around_new": list(AROUND)}


class Row(NamedTuple):
    options: dict[str, Any]

    def __str__(self):
        return described(self.options)


def made(row, which):
    return AROUND[row.options[f"around_{which}"]](MAKES[row.options[which]]())


def filled(state):
    """A state of distinct numbers: counts from 10, and slots from 0.1."""
    leaves, treedef = jax.tree.flatten(state)
    kinds = {"i": lambda i, x: 10 + i, "f": lambda i, x: 0.1 + i + np.arange(x.size).reshape(x.shape) / 64}
    numbers = [kinds.get(x.dtype.kind, lambda i, x: x)(i, x) for i, x in enumerate(leaves)]
    return treedef.unflatten([jnp.asarray(n, x.dtype) for n, x in zip(numbers, leaves, strict=True)])


def slots_of(tx, state):
    """The slots of the optimizer by name and parameter, from the keys of the state alone."""
    if isinstance(state, gx.PackedState):
        state = gx.unpack_state(tx, state, PARAMS)
    found = {}
    for path, x in tree_flatten_with_path(state)[0]:
        fields = [i for i, key in enumerate(path) if isinstance(key, GetAttrKey)]
        name, parameter = path[fields[-1]].name, keystr(path[fields[-1] + 1 :], simple=True, separator="/")
        if parameter and name in SLOTS:
            assert (name, parameter) not in found
            found[name, parameter] = x
    return found


def count_of(tx, state):
    """The step count of the optimizer's rule; none for momentum."""
    if isinstance(state, gx.PackedState):
        state = gx.unpack_state(tx, state, PARAMS)
    is_rule = lambda x: hasattr(x, "mu") and hasattr(x, "count")
    found = [x for x in jax.tree.leaves(state, is_leaf=is_rule) if is_rule(x)]
    return [int(x.count) for x in found]


@pytest.mark.parametrize("row", [Row(row) for row in pairwise(OPTIONS)], ids=str)
def test_migrate(row):
    old, new = made(row, "old"), made(row, "new")
    state = filled(old.init(PARAMS))
    found = gx.migrate(state, old, new, PARAMS)
    assert aval(found.state) == aval(new.init(PARAMS))
    before, after = slots_of(old, state), slots_of(new, found.state)
    fresh = slots_of(new, new.init(PARAMS))
    for place, x in after.items():
        expected = before[place].astype(x.dtype) if place in before else fresh[place]
        np.testing.assert_array_equal(x, expected, err_msg=str(place))
    kept = {(name.split("/")[-1], path) for name, path in found.kept if path and name.split("/")[-1] in SLOTS}
    assert {(name, path) for name, path in kept} == before.keys() & after.keys()
    before, after = count_of(old, state), count_of(new, found.state)
    if len(before) == 1:  # else each group has one
        assert after == before * len(after)
    if not before:
        assert after in ([0], [0, 0], [])
