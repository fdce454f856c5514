"""LAMB (You et al. 2020, arXiv:1904.00962)."""

from typing import Literal

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, is_zero
from gradx.core.ranges import BOUND, check, declare_ranges, one_of
from gradx.core.renaming import renamed_arguments
from gradx.core.transformation import GradientTransformation
from gradx.optimizers.adam import scale_by_adam
from gradx.selection.masking import Mask, masked
from gradx.transforms.clipping import clip_by_global_norm
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.trust_ratio import scale_by_trust_ratio
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["lamb"]

declare_ranges(max_grad_norm=BOUND)


@factory
@renamed_arguments(rule="variant")
def lamb(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-6,
    eps_root: ScalarOrSchedule = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask = None,
    *,
    trust_ratio_mask: Mask = None,
    phi_bounds: tuple[float, float] | None = None,
    bias_correction: bool = True,
    variant: Literal["paper", "mlperf", "nvidia", "nvlamb"] = "paper",
    max_grad_norm: ScalarOrSchedule | None = None,
) -> GradientTransformation:
    """AdamW with a step for each array in proportion to its norm, for large batches.

        d = scale_by_adam(g) + weight_decay * p
        u = -learning_rate * φ(‖p‖) / ‖d‖ * d
        in another variant than the paper's, g is clipped first, by the norm of all gradients

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-3 to 1e-2, with a warm-up.
      b1, b2, eps, eps_root, bias_correction: as in `scale_by_adam`; eps=1e-6 by default.
      weight_decay: the share of each parameter added to its update, at least 0; 0.01 in the paper.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.
      trust_ratio_mask: which parameters have the ratio (1 for the others), as in `masked`; None leaves it to
        the variant, True is for all.
      phi_bounds: (low, high) for φ(x) = min(max(x, low), high); None for φ(x) = x.
      variant: whose rule it is. All arrays have the ratio in "paper" (and Optax) and in "nvlamb" (FusedLAMB
        of apex with use_nvlamb); in "mlperf" (the reference of its BERT) the arrays
        of `mask` have it; in "nvidia" (FusedLAMB as it is) the arrays that decay, so without weight decay
        it is Adam.
      max_grad_norm: the largest norm of all gradients together, at least 0; None for 1, and for no clipping
        in "paper".
    """
    one_of("lamb", ("paper", "mlperf", "nvidia", "nvlamb"), variant=variant)
    adapts = trust_ratio_mask
    if adapts is None and variant in ("mlperf", "nvidia"):
        adapts = False if variant == "nvidia" and is_zero(weight_decay) else mask
    if max_grad_norm is None and variant != "paper":
        max_grad_norm = 1.0
    if max_grad_norm is not None:
        check("lamb", max_grad_norm=max_grad_norm)
    ratio = scale_by_trust_ratio(phi_bounds=phi_bounds)
    return chain(
        *([] if max_grad_norm is None else [clip_by_global_norm(max_grad_norm)]),
        scale_by_adam(b1, b2, eps, eps_root, bias_correction=bias_correction),
        add_decayed_weights(weight_decay, mask),
        ratio if adapts is None else masked(ratio, adapts),
        scale_by_learning_rate(learning_rate),
    )
