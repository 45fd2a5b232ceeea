"""``hdf5``: list the clips of HDF5 files in MaskSpec's and PaSST's layout as rows ``FILE.hdf:ROW``.

Labels are the numbers of the classes, or with ``--classes`` their names. (``pack --hdf5`` writes such files.)
Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mae_ast_plugin.errors import PlainError
from manifests import jobs, splits
from manifests.hdf5_layout import open_file, read_classes, read_labels, read_names
from manifests.members import Member, probe_members, write_members
from manifests.output import Findings

ENDINGS = (".h5", ".hdf5", ".hdf")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("hdf5", help="list the clips in HDF5 files", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="files with the datasets audio_name, mp3 and target")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for train.tsv, valid.tsv, test.tsv")
    splits.add_options(parser)
    parser.add_argument("--classes", metavar="CSV", help="class_labels_indices.csv: labels are its mids")
    jobs.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """List, probe, write and report; raises PlainError when the options are wrong or no clip is left."""
    splits.check_shares(options.valid, options.test)
    jobs.check_jobs(options.jobs)
    paths = sorted({os.path.abspath(path) for path in options.files})
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    listed = _list_rows(root, paths, read_classes(options.classes) if options.classes else None)
    # the share is of rows, not of files: there are few files, and large ones
    members = {row: member for row, member in listed.items() if options.shard.holds(row)}
    of = ["hdf5", [[path, os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in paths]]
    with jobs.Journal(Path(options.out) / ".hdf5.journal", of) as journal:
        write_members(root, probe_members(root, members, Findings(), journal, options), options)


def _list_rows(root: str, paths: Sequence[str], classes: Sequence[str] | None) -> dict[str, Member]:
    """Give the rows of all files with what the files say of them."""
    listed: dict[str, Member] = {}
    for path in paths:
        if not path.lower().endswith(ENDINGS):
            raise PlainError(f"{path} does not end in {', '.join(ENDINGS)}, so no reader would know it: rename it")
        names = read_names(path)
        with open_file(path) as file:
            for number, label in enumerate(read_labels(file, path, classes)):
                name = names[number] if number < len(names) else "it has no name"
                listed[f"{os.path.relpath(path, root)}:{number}"] = Member(name, label)
    return listed
