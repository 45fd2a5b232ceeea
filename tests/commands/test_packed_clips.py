"""Commands take clips inside tar and zip files as they take files."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mae_ast_plugin.__main__ import main
from mae_ast_plugin.audio.manifest import Manifest, write_manifest


def _pack_tar(manifest: Manifest, folder: Path) -> list[str]:
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for row in manifest:
            archive.add(row.path, Path(row.path).name)
    with tarfile.open(folder / "shard.tar") as archive:
        return [f"shard.tar:{info.offset_data}:{info.size}" for info in archive]


def _pack_zip(manifest: Manifest, folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "clips.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for row in manifest:
            archive.write(row.path, f"some folder/{Path(row.path).name}")
    return [f"clips.zip:some folder/{Path(row.path).name}" for row in manifest]


@pytest.mark.parametrize("pack", [_pack_tar, _pack_zip])
def test_packed_clips_have_the_vectors_of_their_files(
    checkpoint: Path,
    manifest: Path,
    tmp_path: Path,
    pack: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = list(Manifest.load(manifest))
    names = pack(Manifest.load(manifest), tmp_path)  # type: ignore[operator]
    labels = [row.label for row in rows]
    packed = tmp_path / "packed.tsv"
    write_manifest(packed, tmp_path, [*zip(names, (row.length for row in rows), strict=True)], labels=labels)
    found = []
    for given in (manifest, packed):
        out = tmp_path / f"{given.stem}.npz"
        assert main(["embed", str(given), "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
        with np.load(out) as archive:
            found.append(dict(archive.items()))
    assert found[1]["names"].tolist() == names
    assert found[1]["labels"].tolist() == labels
    np.testing.assert_array_equal(found[1]["vectors"], found[0]["vectors"])
