"""Sound combinations of formats, by name."""

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import optax

from gradx.codecs.blockwise import Blockwise
from gradx.codecs.rounded import Rounded
from gradx.codecs.stored import Codec
from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.foreign import check_transformation
from gradx.core.transformation import GradientTransformation
from gradx.low_precision.store import store
from gradx.low_precision.weights import kahan, master_weights, split_weights, stochastic_rounding

__all__ = ["Policy", "precision"]

Policy: TypeAlias = Literal["bf16-stochastic", "bf16-kahan", "master", "split", "8-bit"]


class Formats(NamedTuple):
    """The format of slots, and a function from a seed to the link that rounds parameters of 16 bits."""

    slots: Codec | None
    parameters: Callable[[int], GradientTransformation]


POLICIES: dict[str, Formats] = {
    "bf16-stochastic": Formats(Rounded("bfloat16"), stochastic_rounding),
    "bf16-kahan": Formats(Rounded("bfloat16"), lambda seed: kahan()),
    "master": Formats(None, lambda seed: master_weights()),
    "split": Formats(None, lambda seed: split_weights()),
    "8-bit": Formats(Blockwise(), lambda seed: split_weights()),
}


@factory
def precision(
    tx: optax.GradientTransformation,
    policy: Policy,
    *,
    where: str | re.Pattern | Callable[[str, Any], bool] | None = None,
    seed: int = 0,
) -> GradientTransformation:
    """Make an optimizer keep its slots, and round its parameters, in fewer bytes, by one word.

        policy             slots             16-bit parameters             bytes of AdamW
        "bf16-stochastic"  bf16, stochastic  rounded stochastically        2 + 4
        "bf16-kahan"       bf16, stochastic  with a bf16 compensation      2 + 2 + 4
        "split", "master"  float32           with 8 more bits; in float32  2 + 1 + 8; 2 + 4 + 8
        "8-bit"            8 bits            with 8 more bits              2 + 1 + 2

    Arguments:
      tx: any whole optimizer of gradx or Optax, whose updates are added to the parameters.
      policy: one of the above: a chain of `store` and of `stochastic_rounding`, `kahan`, `split_weights` or
        `master_weights`, which can be combined in other ways too.
      where: the parameters whose slots are stored, as in `store`; None for all. Slots of vectors and small
        arrays are never stored.
      seed: an integer, for the random bits.

    Parameters keep their dtypes: cast to bfloat16 the ones that you want in 16 bits. The others may be
    float32; they are updated as usual. `summarize` tells the bytes of the state. Raises ValueError for an
    unknown policy, with the names that exist, and for `where` with a policy that stores no slots; TypeError
    for a seed that is no integer.

    >>> import gradx, jax
    >>> params = {"w": jax.ShapeDtypeStruct((1024, 1024), "bfloat16")}
    >>> for tx in (gradx.adamw(1e-3), gradx.precision(gradx.adamw(1e-3), "8-bit")):
    ...     print(round(gradx.summarize(tx, params).bytes_per_parameter, 2))
    8.0
    3.03
    """
    check_transformation("tx of precision", tx)  # raises if it is none
    if not isinstance(policy, str) or policy not in POLICIES:
        raise ValueError(f"precision: no policy is named {policy!r}; the names are {sorted(POLICIES)}")
    if type(seed) is not int:
        raise TypeError(f"precision: seed must be an integer, got {seed!r}")
    slots, parameters = POLICIES[policy]
    if slots is None and where is not None:
        raise ValueError(f"precision: where chooses the slots that are stored, and {policy!r} stores none")
    # The parameters' random bits must not be those of the slots.
    inner = tx if slots is None else store(tx, slots, where=where, seed=seed)
    return chain(inner, parameters(seed + 1))
