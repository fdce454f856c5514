"""`optax.transforms`: gradx's links and wrappers where gradx has them."""

from typing import TYPE_CHECKING, Any

import optax.transforms

if TYPE_CHECKING:  # so that editors complete Optax's own names; `__getattr__` gives these
    from optax.transforms import *  # pyright: ignore[reportWildcardImportFromLibrary]

from gradx import adaptive_grad_clip as adaptive_grad_clip
from gradx import add_decayed_weights as add_decayed_weights
from gradx import apply_if_finite as apply_if_finite
from gradx import clip as clip
from gradx import clip_by_block_rms as clip_by_block_rms
from gradx import clip_by_global_norm as clip_by_global_norm
from gradx import conditionally_mask as conditionally_mask
from gradx import conditionally_transform as conditionally_transform
from gradx import ema as ema
from gradx import freeze as freeze
from gradx import keep_params_nonnegative as keep_params_nonnegative
from gradx import masked as masked
from gradx import named_chain as named_chain
from gradx import selective_transform as selective_transform
from gradx import skip_large_updates as skip_large_updates
from gradx import trace as trace
from gradx import zero_nans as zero_nans
from gradx.optax.rules import MultiSteps as MultiSteps
from gradx.optax.rules import add_noise as add_noise
from gradx.optax.rules import chain as chain
from gradx.optax.rules import partition as partition

# For `import *`. The list cannot be written out: a newer Optax has more names.
__all__ = [name for name in dir(optax.transforms) if not name.startswith("_")]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    return getattr(optax.transforms, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(optax.transforms)})
