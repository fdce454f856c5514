"""The README's table of libraries, `python -m tests.comparison`: what each cell says, a probe finds out.

`probe` names a method that each of the four classes in `tests/features` has: what it gives must be the cell.
"""

from typing import NamedTuple

LIBRARIES = ["gradx", "Optax 0.2.8", "torch.optim 2.13", "pytorch_optimizer 4.1"]
YES, NO, HAND, OPTAX, FUSED = "✓", "–", "by hand", "Optax's", "`fused=True`"


class Row(NamedTuple):
    """What a user chooses by, and what each library has of it."""

    probe: str
    feature: str
    gradx: str
    optax: str
    torch: str
    pytorch_optimizer: str


ROWS = [
    Row("optimizers", "optimizers", "33, and Optax's", "50", "15", "128"),
    Row("lars_and_lamb", "LARS and LAMB", YES, YES, NO, YES),
    Row("muon", "Muon", OPTAX, YES, YES, YES),
    Row("schedule_free", "schedule-free, Prodigy, SAM", OPTAX, YES, NO, YES),
    Row("shampoo", "Shampoo, SOAP", NO, NO, NO, YES),
    Row("lbfgs", "L-BFGS with a line search", YES, YES, YES, YES),
    Row("losses", "losses", OPTAX, YES, "torch.nn", YES),
    Row("sparse", "sparse gradients", NO, NO, YES, YES),
    Row("kernels", "one kernel for an array's step", "XLA's", "XLA's", FUSED, FUSED),
    Row("chain", "links that combine in any order", YES, YES, NO, "wrappers"),
    Row("rule", "your own rule is a function of one array", YES, "without state", NO, NO),
    Row("equality", "known by its call: `==`, `hash`, `pickle`", YES, NO, NO, NO),
    Row("fixed_state", "state known before the first step, of fixed dtypes", YES, NO, NO, NO),
    Row("second_moment", "bf16 parameters: AdamW's second moment is right", YES, NO, NO, "by float32 copies"),
    Row("small_steps", "bf16 parameters: small steps are not lost", YES, NO, NO, YES),
    Row("eight_bits", "slots of 8 bits", YES, NO, NO, YES),
    Row("weighted", "micro-batches that count by their tokens", YES, HAND, HAND, HAND),
    Row("skipping", "steps that are not finite are left out", YES, YES, YES, YES),
    Row("groups", "parameter groups", "by path", "by label", "by object", "by object"),
    Row("unused_group", "a group that no parameter is in is an error", YES, NO, NO, NO),
    Row("one_cycle", "one-cycle with its momentum", YES, HAND, YES, YES),
    Row("searching", "range test; early stopping with the best parameters", YES, NO, NO, NO),
    Row("averages", "averaged parameters", YES, HAND, YES, YES),
    Row("zero", "state in parts over devices (ZeRO-1)", YES, HAND, YES, YES),
    Row("migration", "a state goes on in another optimizer", YES, NO, NO, NO),
    Row("cost", "what a step costs, from shapes alone", YES, HAND, NO, NO),
]


def table() -> str:
    head = ["", *LIBRARIES]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(rows + [f"| {' | '.join(row[1:])} |" for row in ROWS])


def said(found: object) -> str:
    """What a probe gives, as a cell."""
    return {True: YES, False: NO}.get(found, found) if isinstance(found, bool) else str(found)


if __name__ == "__main__":
    print(table())
