"""Pretraining of audio and speech encoders by masking spectrograms, as a fairseq plugin.

Importing the package needs torch only; the fairseq rooms (``tasks``, ``models``, ``criterions``, ``data``, ``launch``)
are imported by fairseq.
"""

from __future__ import annotations

__version__ = "0.1.0"

from mae_ast_plugin.encoder import AudioEncoder, Embeddings, load_model

__all__ = ["AudioEncoder", "Embeddings", "__version__", "load_model"]
