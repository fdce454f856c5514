"""Two options of groups at once: each parameter against the reference with its own hyperparameters."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests import reference
from tests.pairs import described, pairwise, real

STEPS = 5
random = np.random.default_rng(0)
# Names that begin alike, or are a part of another.
SHAPES = {"head": {"w": (3,), "w2": (2,)}, "head2": {"w": (2, 2)}, "w": (2,)}
is_shape = lambda x: isinstance(x, tuple)
PARAMS = jax.tree.map(lambda shape: random.normal(size=shape), SHAPES, is_leaf=is_shape)
GRADIENTS = jax.tree.map(lambda shape: random.normal(size=(STEPS, *shape)), SHAPES, is_leaf=is_shape)


def falling(count):
    return 0.1 / (1 + real(count))


def below_head(path, x):
    return path.startswith("head/")


OPTIONS = {
    "default": ["sgd", "adamw"],
    "rate": [0.1, falling],
    "pattern": ["^head/", re.compile("(?i)EAD/"), below_head],
    "rule": ["number", "scaled", "schedule", "scaled by a schedule", "frozen", "transformation"],
    "second": [None, "frozen", "number"],
    "around": [None, "masked", "inject"],
}
SECOND = r"/w$"  # at the end of a path, and within head2 alone where the first group has the others


def fits(row):
    """A product is taken when the groups are made: an injected default may not be scaled."""
    scaled = row.get("rule") in ("scaled", "scaled by a schedule")
    return not (scaled and row.get("around") == "inject")


class Row(NamedTuple):
    options: dict[str, Any]

    def __str__(self):
        return described({k: getattr(v, "pattern", v) for k, v in self.options.items()})


ROWS = [Row(row) for row in pairwise(OPTIONS, fits)]
FIXED = {"sgd": {"momentum": 0.9, "rate_in_velocity": True}, "adamw": {"decay_order": "after"}}
RULES = {
    "second number": (dict(learning_rate=0.07), lambda rate: 0.07),
    "number": (dict(learning_rate=0.03), lambda rate: 0.03),
    "scaled": (dict(learning_rate=gx.scaled(0.5)), lambda rate: lambda t: 0.5 * reference.at(rate, t)),
    "schedule": (dict(learning_rate=falling), lambda rate: falling),
    "scaled by a schedule": (
        dict(learning_rate=gx.scaled(falling)),
        lambda rate: lambda t: falling(t) * reference.at(rate, t),
    ),
}


def grouped(row, rate):
    options = row.options
    default = getattr(gx, options["default"])(rate, **FIXED[options["default"]])
    others = {"frozen": gx.frozen(), "transformation": gx.sgd(1.0)}
    rules = {options["pattern"]: others.get(options["rule"]) or RULES[options["rule"]][0]}
    if options["second"]:
        second = others.get(options["second"]) or RULES["second number"][0]
        rules["^head2.*" + SECOND] = second
    return gx.groups(default, rules)


def run(row, gradients):
    options = row.options
    tx = grouped(row, options["rate"])
    if options["around"] == "masked":
        tx = gx.masked(tx, {"head": True, "head2": True, "w": False})
    if options["around"] == "inject":
        factory = lambda rate: grouped(row, rate)
        tx = gx.inject_hyperparams(factory, hyperparam_dtype=jnp.float64)(options["rate"])

    def step(carry, g):
        p, state = carry
        u, state = tx.update(g, state, p)
        return (gx.apply_updates(p, u), state), u

    p = jax.tree.map(jnp.asarray, PARAMS)
    return jax.lax.scan(step, (p, tx.init(p)), gradients)[1]


def rules_of(row):
    """The reference of each parameter by its path; None if it stays, and "passed" if it is not seen."""
    options, found = row.options, {}
    default = lambda rate: getattr(reference, options["default"])(rate, **FIXED[options["default"]])
    for path in ("head/w", "head/w2", "head2/w", "w"):
        second = options["second"] and f"second {options['second']}"
        rule = second if path == "head2/w" else options["rule"] if "head/" in path else None
        if rule in ("frozen", "second frozen"):
            found[path] = None
        elif rule == "transformation":
            found[path] = reference.sgd(1.0)
        else:
            found[path] = default(RULES[rule][1](options["rate"]) if rule else options["rate"])
    return found | ({"w": "passed"} if options["around"] == "masked" else {})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_groups(row, together, x64):
    found = jax.device_get(together(run, GRADIENTS, row="row"))
    for path, rule in rules_of(row).items():
        at = lambda tree: tree[path] if "/" not in path else tree[path.split("/")[0]][path.split("/")[1]]
        gs, p = at(GRADIENTS), at(PARAMS)
        next(rule) if hasattr(rule, "send") else None
        for t, g in enumerate(gs):
            u = g if rule == "passed" else 0 * g if rule is None else rule.send((g, p))
            np.testing.assert_allclose(at(found)[t], u, rtol=1e-10, atol=1e-12, err_msg=f"{path}, step {t}")
            p = p + u
