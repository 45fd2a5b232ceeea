"""Pictures of what a run does: reconstructions and curves.

Drawing is from arrays and never touches matplotlib's global state; ``pretraining.py`` makes the arrays.
"""
