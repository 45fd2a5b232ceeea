"""``embed``: one vector (or every step) of each clip, in one ``.npz`` file.

The clips are embedded in groups; each is written to ``OUT.parts/`` when it is done. A stopped command goes on there,
and the last group turns the parts into the one file. Arrays: ``names`` (N,), ``vectors`` (N, W) or, with ``--pool
none``, ``frames`` (all steps, W) and ``lengths`` (N,); ``labels`` (N,) where the manifest has them; ``unreadable``
(U, 2) names and reasons of files left out; ``settings``, how all this was made, as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_ast_plugin.audio.listing import Listed, list_clips
from mae_ast_plugin.commands.options import add_encoder_options, encoder_from, progress_bar
from mae_ast_plugin.corpus import GROUP_BATCHES, Group, as_arrays, read_groups
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.pooling import POOLINGS

SETTINGS = ("checkpoint", "columns", "precision", "window_seconds", "layer", "pool")
NO_POOLING = "none"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("embed", help="write the embeddings of files", description=__doc__)
    parser.add_argument("inputs", nargs="+", metavar="FILES|DIR|MANIFEST", help="audio files, folders, .tsv manifests")
    parser.add_argument("--out", required=True, metavar="OUT.npz", help="the file to write")
    parser.add_argument("--layer", default="last", help="last: the network's output; 0: the embedding; N: layer N")
    parser.add_argument(
        "--pool", choices=[*POOLINGS, NO_POOLING], default="mean", help="steps to one vector (default mean)"
    )
    add_encoder_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Embed, or go on with embedding, and write the one file; PlainError where nothing could be read."""
    out = Path(options.out)
    if out.suffix != ".npz":
        raise PlainError(f"--out is {out}; the result is one NumPy archive, give it a name ending in .npz")
    layers = _layers(options.layer)
    clips = list_clips(options.inputs)
    settings = _settings(options, clips)
    if out.exists():
        _check_same(out, _settings_of(out), settings)
        print(f"{out} holds these embeddings already; nothing to do")
        return
    encoder = encoder_from(options)
    parts = Parts(out.with_name(f"{out.name}.parts"), settings)
    done = parts.num_rows
    if done:
        print(f"going on after {done} of {len(clips)} clips")
    try:
        with progress_bar(len(clips), "embedding", done) as progress:
            _embed(encoder, clips[done:], layers, options.pool, parts, progress)
    except KeyboardInterrupt:
        print(
            f"\nstopped after {parts.num_rows} of {len(clips)} clips; the same command goes on there", file=sys.stderr
        )
        sys.exit(130)
    parts.join(out, clips, {**settings, "step_seconds": encoder.step_seconds, "num_updates": _updates(encoder)})


def _layers(layer: str) -> Sequence[int]:
    """The hidden states that `AudioEncoder.forward` must keep; none for its final output."""
    if layer == "last":
        return ()
    try:
        return (int(layer),)
    except ValueError as error:
        raise PlainError(f"--layer is {layer!r}; give last or the number of a layer, 0 for the embedding") from error


def _updates(encoder: AudioEncoder) -> int:
    return encoder.checkpoint.num_updates if encoder.checkpoint else 0


@torch.no_grad()
def _embed(
    encoder: AudioEncoder, clips: Sequence[Listed], layers: Sequence[int], pool: str, parts: Parts, progress: Any
) -> None:
    for group in read_groups(clips, GROUP_BATCHES * encoder.batch_seconds):
        values, lengths = np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
        if group.rows:
            embedded = encoder(group.waveforms, group.rates, layers=layers)
            states = embedded.hidden_states[0] if layers else embedded.frames
            lengths = embedded.lengths.cpu().numpy()
            if pool == NO_POOLING:
                values = np.concatenate(as_arrays(states, embedded.lengths))
            else:
                values = POOLINGS[pool](states, embedded.lengths).cpu().numpy()
        parts.add(group, values, lengths)
        progress(len(group))


def _settings(options: argparse.Namespace, clips: Sequence[Listed]) -> dict[str, Any]:
    """What the result depends on: only a command that agrees in all of it may go on with another's parts."""
    content = hashlib.sha256()
    for clip in clips:
        content.update(f"{clip.path}\t{clip.label}\n".encode("utf-8", "surrogateescape"))
    checkpoint = Path(options.checkpoint).resolve()
    newest = max((file.stat().st_mtime_ns for file in [checkpoint, *checkpoint.glob("*")] if file.exists()), default=0)
    chosen = {name: getattr(options, name) for name in SETTINGS} | {"checkpoint": str(checkpoint)}
    return {**chosen, "checkpoint_written": newest, "clips": content.hexdigest()}


def _settings_of(out: Path) -> dict[str, Any]:
    try:
        with np.load(out) as archive:
            settings: dict[str, Any] = json.loads(str(archive["settings"]))
            return settings
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise PlainError(f"{out} exists and was not written by this command: give another --out or move it") from error


def _check_same(where: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if found.get(name) != value:
            shown = "another list of clips" if name == "clips" else f"{name} {found.get(name)}, not {value}"
            raise PlainError(f"{where} was begun with {shown}: remove it or give another --out")


class Parts:
    """The finished groups of an unfinished result: a folder of numbered archives, each written whole or not at all."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        note = folder / "settings.json"
        if note.exists():
            _check_same(folder, json.loads(note.read_text()), settings)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = note.with_suffix(".tmp")
            temporary.write_text(json.dumps(settings))
            temporary.replace(note)
        self.files = sorted(folder.glob("part-*.npz"))
        self.num_rows = sum(int(part["count"]) for part in self._read("count"))

    def add(self, group: Group, values: np.ndarray, lengths: np.ndarray) -> None:
        """Write the next group: pooled or joined ``values``, the steps of each clip read, and what was not read."""
        path = self.folder / f"part-{len(self.files):08d}.npz"
        offset = self.num_rows
        reasons = np.array([[str(row), reason] for row, reason in group.unreadable.items()], dtype=np.str_)
        first = min([*group.rows, *group.unreadable])
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as handle:
            np.savez(
                handle,
                count=len(group),
                rows=np.array(group.rows, dtype=np.int64) - first + offset,
                values=values,
                lengths=lengths,
                unreadable_rows=np.array(list(group.unreadable), dtype=np.int64) - first + offset,
                reasons=reasons[:, 1] if len(reasons) else np.zeros(0, np.str_),
            )
        temporary.replace(path)
        self.files.append(path)
        self.num_rows += len(group)

    def _read(self, *names: str) -> Iterator[dict[str, np.ndarray]]:
        for path in self.files:
            with np.load(path) as part:
                yield {name: part[name] for name in names}

    def join(self, out: Path, clips: Sequence[Listed], settings: dict[str, Any]) -> None:
        """Turn the parts into the one archive ``out``, a part in memory at a time, and remove them."""
        small = list(self._read("rows", "lengths", "unreadable_rows", "reasons"))
        rows = np.concatenate([part["rows"] for part in small])
        bad = np.concatenate([part["unreadable_rows"] for part in small])
        reasons = [str(reason) for part in small for reason in part["reasons"]]
        unreadable = [[clips[row].name, reason] for row, reason in zip(bad, reasons, strict=True)]
        if not len(rows):
            shutil.rmtree(self.folder)
            name, reason = unreadable[0]
            raise PlainError(f"none of the {len(clips)} clips could be read; the first: {name} {reason}")
        values = (part["values"] for part in self._read("values") if len(part["values"]))
        labels = [clips[row].label for row in rows]
        temporary = out.with_name(f".{out.name}.tmp")
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            _write_array(archive, "names", [np.array([clips[row].name for row in rows], dtype=np.str_)])
            if settings["pool"] == NO_POOLING:
                _write_array(archive, "frames", values, sum(int(part["lengths"].sum()) for part in small))
                _write_array(archive, "lengths", [np.concatenate([part["lengths"] for part in small])])
            else:
                _write_array(archive, "vectors", values, len(rows))
            if any(label is not None for label in labels):
                _write_array(archive, "labels", [np.array([label or "" for label in labels], dtype=np.str_)])
            _write_array(archive, "unreadable", [np.array(unreadable, dtype=np.str_).reshape(-1, 2)])
            _write_array(archive, "settings", [np.array(json.dumps(settings))])
        temporary.replace(out)
        shutil.rmtree(self.folder)
        print(f"{out}: {len(rows)} clips, {len(unreadable)} unreadable")
        for name, reason in unreadable[:5]:
            print(f"  left out: {name} {reason}")


def _write_array(
    archive: zipfile.ZipFile, name: str, pieces: Iterable[np.ndarray], num_rows: int | None = None
) -> None:
    """Write an array in pieces along its first axis, of ``num_rows`` together (None: there is one piece)."""
    pieces = iter(pieces)
    first = next(pieces)
    shape = first.shape if num_rows is None else (num_rows, *first.shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_2_0(member, header)
        member.write(np.ascontiguousarray(first).tobytes())
        for piece in pieces:
            member.write(np.ascontiguousarray(piece).tobytes())
