"""Each rule once more, in NumPy float64, straight from its paper.

A reference is a generator for one array: it is sent a gradient and the parameter, and yields the
update. Written apart from `gradx/`, and sharing nothing with it.
"""

from tests.reference.adaptive import *
from tests.reference.factored import *
from tests.reference.first import *
from tests.reference.large_batch import *
from tests.reference.radam_lbfgs import *
from tests.reference.relatives import *
