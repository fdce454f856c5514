"""PyTorch's optimizers and learning-rate schedules, by its names: a recipe ported gives its numbers.

>>> import gradx
>>> gradx.torch.AdamW(lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
AdamW()
"""

from gradx.conventions.torch_optimizers import *
from gradx.conventions.torch_schedulers import *
