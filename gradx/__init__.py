"""gradx: gradient transformations for JAX, composed from small pure functions.

Every optimizer is a `chain` of transformations, and every transformation is an Optax transformation.
Each module lists its public names in `__all__`, and has one line here: `gradx.<name>` is public,
what lies deeper can be read but may move.
"""

from optax import OptState as OptState
from optax import Params as Params
from optax import Updates as Updates

from gradx.core import *
from gradx.factory import *
from gradx.hyper import *
from gradx.leafwise import *
from gradx.minimize import *
from gradx.optimizers.adam import *
from gradx.optimizers.lamb import *
from gradx.optimizers.lars import *
from gradx.optimizers.lbfgs import *
from gradx.optimizers.lion import *
from gradx.optimizers.polyak import *
from gradx.optimizers.radam import *
from gradx.optimizers.ranger import *
from gradx.optimizers.sgd import *
from gradx.schedules import *
from gradx.transforms.centralize import *
from gradx.transforms.clipping import *
from gradx.transforms.decay import *
from gradx.transforms.injection import *
from gradx.transforms.linesearch import *
from gradx.transforms.lookahead import *
from gradx.transforms.masking import *
from gradx.transforms.momentum import *
from gradx.transforms.scale import *
from gradx.transforms.trust_ratio import *
from gradx.tree import *

__version__ = "0.1.0"
