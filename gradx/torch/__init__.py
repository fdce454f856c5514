"""PyTorch's optimizers and learning-rate schedules by its names: a recipe ported gives its numbers.

An optimizer has no `params` (`init` takes them), and a scheduler has `lr` in place of the optimizer,
unless its other arguments say the rate. Arguments about how torch computes do not exist here, and raise
TypeError: `foreach`, `fused`, `capturable`, `differentiable`, `last_epoch`. Missing are LBFGS (see
`gradx.lbfgs` and `gradx.minimize`), Muon, SparseAdam and MultiplicativeLR.

>>> import gradx
>>> gradx.torch.AdamW(lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
AdamW()
"""

from gradx.torch.lr_scheduler import *
from gradx.torch.optim import *
