"""Without the extra `mutants`, a file here cannot be imported."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("libcst") else ["slips.py"]
