"""Apply a transformation to some parameters, or another one to each group."""
