"""``check``: decode every clip of manifests and report what is wrong with them, within a split and between splits.

Writes ``report.txt`` (and ``report.html``), ``findings.tsv`` with every finding (split, line, name, kind, detail), and
``measured.npz``, from which ``--merge`` reports again: of the shares of several machines, or with other limits. The
exit status is 0 where nothing is found, 1 where something is, 2 for a mistake in the command. Interrupted, the same
command goes on where it stopped. A clip is decoded as a whole, 4 bytes a sample.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.audio.manifest import write_atomically, write_manifest
from mae_ast_plugin.errors import PlainError
from manifests import jobs
from manifests.blocks import Corpus, open_corpus, version_of_block
from manifests.durations import Durations
from manifests.findings import KINDS, Finding, Limits, find
from manifests.measuring import AUDIO, CLIP, FEATURES, UNMEASURED, measure_block, unpack_block
from manifests.output import tsv_line
from manifests.report import Report, as_html, as_text, check_html
from manifests.tsv import FINDINGS

MEASURED = "measured.npz"
COLUMNS = ("split", "line", "name", "finding", "detail")


class Measured(NamedTuple):
    """A row of numbers for each clip of a corpus (N,), and why some cannot be read, by row."""

    clips: NDArray[np.void]
    reasons: dict[int, str]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("check", help="decode everything and report what is wrong", description=__doc__)
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST|DIR", help="manifests (.tsv), or folders of them")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--html", action="store_true", help="also write report.html")
    limits = Limits()
    parser.add_argument("--silence-db", type=float, default=limits.silence_db, help="level of silence (default -80)")
    parser.add_argument(
        "--max-clipped", type=float, default=limits.max_clipped, help="share of clipped samples (default 0.001)"
    )
    parser.add_argument(
        "--max-offset",
        type=float,
        default=limits.max_offset,
        help="mean of the samples, full scale is 1 (default 0.05)",
    )
    parser.add_argument(
        "--ignore", nargs="+", choices=list(KINDS), default=[], metavar="KIND", help=f"of {', '.join(KINDS)}"
    )
    parser.add_argument("--write-good", metavar="DIR", help="write the manifests again without the rows found")
    parser.add_argument("--merge", nargs="+", metavar="DIR", help="decode nothing: join what --shard wrote there")
    jobs.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check and report; 1 where something was found. PlainError when options or manifests are wrong."""
    limits = _check_options(options)
    corpus, out = open_corpus(options.manifests), Path(options.out)
    if options.write_good:
        _check_good_folder(Path(options.write_good), corpus)
    out.mkdir(parents=True, exist_ok=True)
    if options.merge:
        return _write(corpus, _merge(corpus, options.merge), limits, options)
    of = ["check", corpus.contents(), options.shard]
    with jobs.Journal(out / ".check.journal", of, version=version_of_block) as journal:
        return _write(corpus, _measure(corpus, journal, options), limits, options)


def _write(corpus: Corpus, measured: Measured, limits: Limits, options: argparse.Namespace) -> int:
    """Judge what was measured and write all of it; 1 where something was found."""
    out = Path(options.out)
    save(out / MEASURED, corpus, measured)
    found = find(corpus, *measured, limits)
    found = [finding for finding in found if finding.kind not in options.ignore]
    report = _report(corpus, measured, found, options)
    write_atomically(out / FINDINGS, _lines(corpus, found))
    write_atomically(out / "report.txt", [as_text(report).encode()])
    if options.html:
        write_atomically(out / "report.html", [as_html(report).encode()])
    print(f"{report.title} (see {out / 'report.txt'})")
    if options.write_good:
        write_good(Path(options.write_good), corpus, found)
    return int(any(len(finding.rows) for finding in found))


def _check_options(options: argparse.Namespace) -> Limits:
    jobs.check_jobs(options.jobs)
    if not options.silence_db < 0:
        raise PlainError(f"--silence-db {options.silence_db} is not below 0, which is full scale: give -80 or so")
    for name in ("max_clipped", "max_offset"):
        if not 0 <= getattr(options, name) <= 1:
            raise PlainError(f"--{name.replace('_', '-')} {getattr(options, name)} must lie between 0 and 1")
    if options.shard.total > 1 and (options.merge or options.write_good):
        raise PlainError("--shard checks a part: give --write-good and --merge to the command that joins all parts")
    if options.html:
        check_html()
    return Limits(options.silence_db, options.max_clipped, options.max_offset)


def _measure(corpus: Corpus, journal: jobs.Journal, options: argparse.Namespace) -> Measured:
    """Decode this machine's share of the clips."""
    clips, reasons = np.zeros(len(corpus), CLIP), dict[int, str]()
    blocks = corpus.blocks(options.shard)
    results = jobs.each(
        measure_block,
        list(blocks),
        jobs=options.jobs,
        what="checking",
        journal=journal,
        kept=lambda result: not result[1],
        unit="block",
        per_task=1,
    )
    for block, result in results:
        table, failed = unpack_block(result)
        begin = blocks[block]
        clips[begin : begin + len(table)] = table
        reasons.update((begin + place, reason) for place, reason in failed.items())
    return Measured(clips, reasons)


# ------------------------------------------------------------------------------------------------ parts


def save(path: Path, corpus: Corpus, measured: Measured) -> None:
    """Write what was measured, and of which manifests."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rest = json.dumps({"manifests": corpus.contents(), "reasons": list(measured.reasons.items())}).encode()
    try:
        with open(temporary, "wb") as handle:
            np.savez(handle, clips=measured.clips, rest=np.frombuffer(rest, np.uint8))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _load(path: Path, corpus: Corpus) -> Measured:
    try:
        with np.load(path, allow_pickle=False) as stored:
            clips, rest = stored["clips"], json.loads(stored["rest"].tobytes())
        contents, reasons = rest["manifests"], {int(row): str(reason) for row, reason in rest["reasons"]}
    except FileNotFoundError as error:
        raise PlainError(f"{path} does not exist: give to --merge the --out of the commands with --shard") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise PlainError(f"{path} was not written by this command: check that part again") from error
    if contents != corpus.contents() or len(clips) != len(corpus) or clips.dtype != CLIP:
        raise PlainError(f"{path} was made of other manifests: give the same ones in the same order, unchanged")
    return Measured(clips, reasons)


def _merge(corpus: Corpus, folders: Sequence[str]) -> Measured:
    """Join parts; PlainError where rows are in none of them."""
    clips, reasons = np.zeros(len(corpus), CLIP), dict[int, str]()
    for folder in folders:
        part = _load(Path(folder) / MEASURED, corpus)
        present = part.clips["state"] != UNMEASURED
        clips[present] = part.clips[present]
        reasons = {row: reason for row, reason in reasons.items() if not present[row]} | part.reasons
    missing = np.flatnonzero(clips["state"] == UNMEASURED)
    if len(missing):
        first = corpus[int(missing[0])]
        raise PlainError(
            f"{len(missing)} rows are in none of the parts, the first is {first.split} line {first.line}: "
            "give --merge the folders of all of them"
        )
    return Measured(clips, reasons)


# ------------------------------------------------------------------------------------------------ what is written


def _report(corpus: Corpus, measured: Measured, found: Sequence[Finding], options: argparse.Namespace) -> Report:
    clips = measured.clips
    timed = ((clips["state"] == AUDIO) | (clips["state"] == FEATURES)) & (clips["rate"] > 0)
    durations = Durations.of(clips["length"][timed] / clips["rate"][timed])
    number, total = options.shard
    part = f" (part {number} of {total})" if total > 1 else ""
    return Report(corpus, found, durations, int((clips["state"] != UNMEASURED).sum()), part)


def _lines(corpus: Corpus, found: Sequence[Finding]) -> Iterator[bytes]:
    yield tsv_line(COLUMNS)
    for finding in found:
        for row in finding.rows.tolist():
            clip = corpus[row]
            yield tsv_line((clip.split, str(clip.line), clip.name, finding.kind, finding.detail(row)))


def _check_good_folder(folder: Path, corpus: Corpus) -> None:
    if len({Path(manifest.path).name for manifest in corpus.manifests}) < len(corpus.manifests):
        raise PlainError("--write-good needs manifests with different file names: rename one of them")
    for manifest in corpus.manifests:
        if folder.resolve() == Path(manifest.path).parent.resolve():
            raise PlainError(f"--write-good {folder} would overwrite {manifest.path}: give another folder")


def write_good(folder: Path, corpus: Corpus, found: Sequence[Finding]) -> None:
    """Write each manifest without the rows found, with rates and labels where it has them."""
    folder.mkdir(parents=True, exist_ok=True)
    bad = np.zeros(len(corpus), bool)
    for finding in found:
        bad[finding.rows] = True
    for manifest, begin in zip(corpus.manifests, corpus.starts.tolist(), strict=False):
        kept = np.flatnonzero(~bad[begin : begin + len(manifest)])
        path = folder / Path(manifest.path).name
        rows = ((corpus[begin + row].name, int(manifest.lengths[row])) for row in kept.tolist())
        write_manifest(
            path,
            manifest.root,
            rows,
            labels=(manifest[row].label for row in kept.tolist()),
            rates=None if manifest.sample_rates is None else manifest.sample_rates[kept].tolist(),
        )
        print(f"{path}: {len(kept)} of {len(manifest)} clips kept")
        if not len(kept):
            print(f"{path} has no rows left: see the report", file=sys.stderr)
