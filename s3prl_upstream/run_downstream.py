"""s3prl's run_downstream with this upstream in its list: the same arguments, the same results, s3prl unedited.

``-c`` also takes the name of a file in ``configs/`` (``ks``, ``sid_finetune`` ...) and ``-g`` of one in ``upstreams/``.
Runs that s3prl would lose are ended with a sentence: a task's configuration or corpus that is not there, a loader
without a single batch, over which s3prl turns for ever.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mae_ast_plugin.errors import PlainError

HERE = Path(__file__).parent
# what must exist before a task starts, under config.downstream_expert.datarc
CORPORA = {
    "speech_commands": ("speech_commands_root", "speech_commands_test_root"),
    "voxceleb1": ("file_path", "meta_data"),
    "emotion": ("root", "meta_data"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run s3prl's command and give its exit code; a mistake of the user is one sentence and the code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        run(given)
    except PlainError as error:
        print(f"s3prl_upstream: {error}", file=sys.stderr)
        return 2
    return 0


def run(arguments: Sequence[str]) -> None:
    """Prepare s3prl in this process and hand over to it; its ``main`` changes builtins, so the process is its own."""
    extended = completed(arguments)
    from s3prl_upstream.registration import register

    register()
    # workers must inherit what compat added; from Python 3.14 on they would start afresh
    multiprocessing.set_start_method("fork", force=True)
    engine: Any = importlib.import_module("s3prl.run_downstream")
    runner: Any = importlib.import_module("s3prl.downstream.runner").Runner
    get_arguments, get_downstream = engine.get_downstream_args, runner._get_downstream

    def checked_arguments() -> Any:
        options, config, backups = get_arguments()
        check(options, config)
        keep_lists_apart(options, config)
        return options, config, backups

    def guarded_downstream(self: Any) -> Any:
        entry = get_downstream(self)
        refuse_empty_loaders(entry.model)
        return entry

    engine.get_downstream_args, runner._get_downstream = checked_arguments, guarded_downstream
    sys.argv = [sys.argv[0], *extended]
    engine.main()


def completed(arguments: Sequence[str]) -> list[str]:
    """Put the paths of our files behind names given to ``-c`` and ``-g``; PlainError where there is no configuration.

    argparse takes the last of two, so what is added comes last. The checkpoint's path becomes an absolute one: s3prl
    stores it in the run and reads the upstream from there again, from whatever folder the run is evaluated in.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for short, name in (("-c", "config"), ("-g", "upstream_model_config"), ("-k", "upstream_ckpt"),
                        ("-d", "downstream"), ("-e", "past_exp")):  # fmt: skip
        parser.add_argument(short, f"--{name}")
    for short, name in (("-a", "auto_resume"), ("-f", "upstream_trainable"), ("-h", "help")):
        parser.add_argument(short, f"--{name}", action="store_true")
    known, _ = parser.parse_known_args(arguments)
    added = []
    for option, folder in (("config", "configs"), ("upstream_model_config", "upstreams")):
        value = getattr(known, option)
        if value is not None and not Path(value).is_file():
            added += [f"--{option}", str(our_file(folder, value))]
    if known.upstream_ckpt is not None and Path(known.upstream_ckpt).exists():
        added += ["--upstream_ckpt", os.path.abspath(known.upstream_ckpt)]
    starts = known.downstream and not (known.past_exp or known.auto_resume or known.help)
    if starts and known.config is None and not Path("downstream", known.downstream, "config.yaml").is_file():
        raise PlainError(
            f"there is no configuration of {known.downstream}, and s3prl's package brings none; give -c with a file or "
            f"with one of ours: {', '.join(our_names('configs'))}"
        )
    return [*arguments, *added]


def our_names(folder: str) -> list[str]:
    """The files of a folder beside this one, as they may be named on the command line."""
    return sorted(path.stem for path in (HERE / folder).glob("*.yaml"))


def our_file(folder: str, name: str) -> Path:
    """The path of one of our files; PlainError where there is none of that name."""
    if name not in our_names(folder):
        raise PlainError(f"{name}: there is no such file, and ours are {', '.join(our_names(folder))}")
    return HERE / folder / f"{name}.yaml"


def check(options: argparse.Namespace, config: dict[str, Any]) -> None:
    """End in a sentence what would end in the middle of s3prl: no such device, no such corpus."""
    if str(options.device).startswith("cuda") and not torch.cuda.is_available():
        raise PlainError(f"--device is {options.device}, s3prl's default, but torch finds no GPU; give --device cpu")
    datarc = config.get("downstream_expert", {}).get("datarc", {})
    for name in CORPORA.get(options.downstream, ()):
        if not datarc.get(name) or not Path(datarc[name]).exists():
            key = f"config.downstream_expert.datarc.{name}"
            raise PlainError(f"{key} is {datarc.get(name)!r}, which does not exist; give it with -o {key}=PATH")


def keep_lists_apart(options: argparse.Namespace, config: dict[str, Any]) -> None:
    """Keep speaker id's lists of files in the run's folder, by corpus and split.

    s3prl keeps them in its own package under the split's name only, and takes those of another corpus for this one's.
    """
    if options.downstream != "voxceleb1":
        return
    datarc = config["downstream_expert"]["datarc"]
    identity = os.path.abspath(datarc["file_path"]).encode() + b"\n" + Path(datarc["meta_data"]).read_bytes()
    dataset: Any = importlib.import_module("s3prl.downstream.voxceleb1.dataset")
    dataset.CACHE_PATH = str(Path(options.expdir) / "file_lists" / hashlib.sha256(identity).hexdigest()[:16])


def refuse_empty_loaders(downstream: Any) -> None:
    """Make a task's loader without a batch an error; s3prl would ask it for the first one for ever."""
    get_dataloader = downstream.get_dataloader

    def with_batches(split: str, *arguments: Any, **named: Any) -> Any:
        loader = get_dataloader(split, *arguments, **named)
        if len(loader) == 0:
            raise PlainError(
                f"the split {split!r} has not a single batch: it needs as many files as the configuration's batch size "
                "at least; give a smaller one with -o config.downstream_expert.datarc.batch_size=N"
            )
        return loader

    downstream.get_dataloader = with_batches


if __name__ == "__main__":
    sys.exit(main())
