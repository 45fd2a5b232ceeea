"""Commands that build the lists of clips: ``python -m manifests scan DIR --out DIR``.

Knows the audio room, and no model and no trainer.
"""
