"""Parameters in 16 bit that lose nothing: the last link of a chain."""

from typing import NamedTuple

import jax

from gradx.core import GradientTransformation
from gradx.factory import factory
from gradx.leafwise import copy_slot, leafwise

__all__ = ["MasterWeightsState", "master_weights"]


class MasterWeightsState(NamedTuple):
    """The parameters in float32 or better."""

    master: jax.Array


@factory
def master_weights() -> GradientTransformation:
    """Add the updates to a float32 copy of the parameters, which follow it; the last link of a chain.

        master = master + g
        u      = master - p

    A bf16 parameter of 1 cannot be changed by steps of 0.001, as its neighbours are 0.004 away; its master
    can, and `apply_updates` rounds it to the parameter at every step. The parameters must be changed by these
    updates alone. Raises ValueError if `update` is called without parameters.
    """

    def rule(g, p, master):
        master = master + g
        return master - p, master

    return leafwise(MasterWeightsState, rule, slots={"master": copy_slot()})
