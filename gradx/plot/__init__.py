"""Pictures: schedules, paths on a surface, what a run did, the learning rate range test.

Needs Matplotlib: `import gradx.plot`. Lines differ in style and marker, to be told apart in grey too.
"""

from gradx.plot.history import *
from gradx.plot.range_test import *
from gradx.plot.schedule import *
from gradx.plot.trajectory import *
