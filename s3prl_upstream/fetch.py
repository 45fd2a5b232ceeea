"""A checkpoint at a URL to one on disk, kept where torch.hub keeps its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from mae_ast_plugin.errors import PlainError


def fetch(ckpt: str | None, refresh: bool = False) -> str | None:
    """Download ``ckpt`` where it is a URL and not at hand yet, or where ``refresh``; anything else is passed on."""
    if ckpt is None or "://" not in str(ckpt):
        return ckpt
    # two files of one name at two places are two files
    name = f"{hashlib.sha256(ckpt.encode()).hexdigest()[:8]}_{ckpt.rstrip('/').rsplit('/', 1)[-1]}"
    path = Path(torch.hub.get_dir()) / "mae_ast_plugin" / name
    if refresh or not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(ckpt, str(path), progress=False)
        except (OSError, ValueError) as error:
            raise PlainError(
                f"{ckpt}: it could not be downloaded ({error}); give the path of a file instead"
            ) from error
    return str(path)
