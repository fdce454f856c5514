"""Which slots hold averages or sums of squares (or step sizes, in Rprop), and so nothing below 0."""

__all__ = []  # internal: `store` asks

SQUARES = {"nu", "nu_max", "sum_of_squares", "e_g", "e_x", "exp_avg_sq", "grad_sum_sq", "step_sizes"}

# Where a link's names mean something else, all its fields that do: SM3's `nu` is its momentum.
OF_LINK = {
    "Factored": {"v_row", "v_col", "v"},
    "ScaleByAdan": {"n"},
    "ScaleBySM3": {"mu"},
    "ScaleBySimplifiedAdEMAMix": {"n"},
    "Sophia": set(),  # its `nu` averages estimates of a Hessian, of either sign
}


def is_positive(link: str, field: str) -> bool:
    """Whether a field of a link's state has no element below 0; both named as `states.entries` has them."""
    return field.split("/")[0] in OF_LINK.get(link, SQUARES)
