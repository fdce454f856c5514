"""`make mutants ARGS=gradx/optimizers/lion.py`: one slip at a time goes into a file; do its tests see it?"""
