"""Pictures: schedules, paths on a surface, what a run did, the learning rate range test.

Needs Matplotlib: `import gradx.plot`. Lines differ in style and marker, to be told apart in grey too.
"""

from gradx.pictures.history import *
from gradx.pictures.range_test import *
from gradx.pictures.schedule import *
from gradx.pictures.trajectory import *
