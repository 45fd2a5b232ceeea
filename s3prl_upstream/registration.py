"""Puts this upstream's entries into s3prl's list, in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from s3prl_upstream import compat, hubconf

ENTRIES: dict[str, Callable[..., Any]] = {
    name: entry for name, entry in vars(hubconf).items() if name.startswith("mae_ast_plugin_")
}


def register() -> ModuleType:
    """Import ``s3prl.hub`` and add our entries to it; ``S3PRLUpstream``, the runner and ``options()`` see them then.

    An entry that s3prl already has, because this folder was copied or linked into it, stays and is named.
    """
    hub = compat.import_hub()
    for name, entry in ENTRIES.items():
        present = getattr(hub, name, entry)
        if present is not entry:
            print(
                f"s3prl_upstream: s3prl has its own {name} (from {present.__module__}), which is used", file=sys.stderr
            )
        setattr(hub, name, present)
    return hub
