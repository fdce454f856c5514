"""Pictures: schedules, paths on a surface, what a run did, the learning rate range test.

Needs Matplotlib: `import gradx.plot`. Lines differ in style and marker, to be told apart in grey too.
"""

from gradx.pictures.histories import *
from gradx.pictures.range_tests import *
from gradx.pictures.schedules import *
from gradx.pictures.trajectories import *
