"""Pictures of what a run does: reconstructions and curves.

Pure drawing from arrays; knows nothing of models, and never touches matplotlib's global state.
"""
