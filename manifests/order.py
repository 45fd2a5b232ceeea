"""The order of rows: by name, and inside a shard or an HDF5 file by place, as a disk reads them. Knows names only."""

from __future__ import annotations

import re

PLACE = re.compile(r"(.+\.(?:tar|zip|h5|hdf5|hdf)):(\d{1,18})(?::\d{1,18})?", re.DOTALL | re.IGNORECASE)


def place_order(name: str) -> tuple[str, int, str]:
    """Give the sorting key of a row's name: ``a.tar:512:9`` comes before ``a.tar:10240:9``."""
    place = PLACE.fullmatch(name) if ":" in name else None
    return (place[1], int(place[2]), name) if place else (name, -1, name)
