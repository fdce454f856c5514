"""Pictures: schedules, paths on a surface, the history of a run, the learning rate range test.

Needs Matplotlib: `import gradx.plot`. Lines differ in style and marker, so they differ in grey too.
"""

from gradx.plot.history import *
from gradx.plot.range_test import *
from gradx.plot.schedule import *
from gradx.plot.trajectory import *
