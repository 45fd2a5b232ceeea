"""The main job end to end: ``python -m mae_ast_plugin.demo [--data FOLDER] [--out FOLDER]`` (``make demo``)."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

from mae_ast_plugin.audio.reader import AudioError, read
from mae_ast_plugin.demo.corpus import write_corpus
from mae_ast_plugin.demo.results import draw_loss, draw_pictures, read_losses, score_table
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.programs import run_program

MIN_PER_CLASS = 10  # clips a folder needs to count as a class
MAX_SCORED_SECONDS = 12.0
MAX_SCORED_CLIPS = 2000  # of a larger folder, clips spread evenly over it


def say(sentence: str) -> None:
    """Tell the user what goes on, at once."""
    print(f"demo: {sentence}", flush=True)


def run(command: list[str], log: Path) -> None:
    """Run a command with its output in ``log``; PlainError shows the end of it where the command fails."""
    # the network is so small that a second thread only waits for the first; the other core reads audio
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, env=environment)
    status = done.returncode
    if status:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise PlainError(f"{Path(command[0]).name} ended with status {status}: {last[0]} (all of it in {log})")


def make_manifests(audio: Path, out: Path) -> None:
    """Scan ``audio`` into manifests with a tenth of the clips for validation."""
    scan = [sys.executable, "-m", "manifests", "scan"]
    run([*scan, str(audio), "--out", str(out), "--valid", "0.1", "--test", "0"], out.with_suffix(".log"))


def pretrain(manifests: Path, folder: Path, overrides: list[str]) -> None:
    """Pretrain the tiny recipe in ``folder``; an unfinished run there is continued."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = str(Path(sys.executable).parent / "fairseq-hydra-train")
    recipe = ["--config-name", "mae_ast_tiny", "common.user_dir=mae_ast_plugin"]
    run([engine, *recipe, f"task.data={manifests}", f"hydra.run.dir={folder}", *overrides], folder / "console.log")


def results_name(data: Path) -> str:
    """Name the results of a folder, in letters that a setting may hold, so that two folders of one name stay apart."""
    place = data.resolve()
    return f"{re.sub('[^A-Za-z0-9]+', '_', place.name).strip('_')}_{zlib.crc32(os.fsencode(place)):08x}"


def labelled_clips(audio: Path) -> tuple[list[Path], list[str]]:
    """Clips in sub-folders, which are their classes: paths and folder names, of classes with enough clips."""
    names = [path.relative_to(audio) for path in sorted(audio.rglob("*")) if path.is_file()]
    names = [name for name in names if len(name.parts) > 1 and not any(part.startswith(".") for part in name.parts)]
    counts = Counter(name.parent for name in names)
    kept = [name for name in names if counts[name.parent] >= MIN_PER_CLASS]
    return [audio / name for name in kept], [name.parent.as_posix() for name in kept]


def read_labelled(audio: Path, sample_rate: int) -> tuple[list, list[str]]:  # type: ignore[type-arg]
    """Read labelled clips that can be read, of classes where enough can."""
    waveforms, labels = [], []
    found = list(zip(*labelled_clips(audio), strict=True))
    for path, label in found[:: -(-len(found) // MAX_SCORED_CLIPS) or 1]:
        try:
            waveform, _ = read(str(path), sample_rate=sample_rate)
        except AudioError:
            continue  # the scan has listed it with its reason
        waveforms.append(waveform[: int(MAX_SCORED_SECONDS * sample_rate)])
        labels.append(label)
    counts = Counter(labels)
    kept = [number for number, label in enumerate(labels) if counts[label] >= MIN_PER_CLASS]
    return [waveforms[number] for number in kept], [labels[number] for number in kept]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mae_ast_plugin.demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of audio; without it a corpus of synthetic sound is written")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where everything goes (default: demo)")
    parser.add_argument("overrides", nargs="*", help="further settings of the training: optimization.max_update=100")
    options = parser.parse_args(arguments)
    try:
        demo(options.data, options.out, options.overrides)
    except PlainError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def demo(data: Path | None, out: Path, overrides: list[str]) -> None:
    """Do everything and say where the results lie."""
    begin = time.monotonic()
    if data is not None and not data.is_dir():
        raise PlainError(f"{data} is no folder; give DATA=FOLDER with audio in it")
    out.mkdir(parents=True, exist_ok=True)
    name = "corpus" if data is None else results_name(data)
    audio = out / "corpus" if data is None else data
    if data is None:
        say(f"writing a corpus of synthetic sound to {audio} ...")
        write_corpus(audio)
    manifests, folder = out / f"{name}_manifests", out / f"{name}_run"
    say(f"reading lengths and writing manifests to {manifests} ...")
    make_manifests(audio, manifests)
    say(f"pretraining with the recipe mae_ast_tiny in {folder}, about 4 minutes on 2 cores (log: its console.log) ...")
    pretrain(manifests, folder, overrides)
    losses = read_losses(folder)
    draw_loss(losses, folder / "loss.png")
    say("drawing reconstructions and scoring clip vectors ...")
    checkpoint = folder / "checkpoints" / "checkpoint_last.pt"
    draw_pictures(checkpoint, manifests / "valid.tsv", folder / "reconstruction.png")
    waveforms, labels = read_labelled(audio, sample_rate=16000)
    classes = f"the folder has no classes (two or more sub-folders with {MIN_PER_CLASS} clips that can be read)"
    table = score_table(checkpoint, waveforms, labels) if len(set(labels)) > 1 else f"no scores: {classes}"
    _report(folder, losses, table, time.monotonic() - begin)


def _report(folder: Path, losses: dict[str, list[tuple[int, float]]], table: str, seconds: float) -> None:
    first, last = losses["train"][0], losses["train"][-1]
    (folder / "scores.txt").write_text(table + "\n")
    fall = f"{first[1]:.2f} at update {first[0]} -> {last[1]:.2f} at update {last[0]}"
    print(f"\nloss        {fall}   {folder / 'loss.png'}")
    print(f"picture     original, masked, reconstructed   {folder / 'reconstruction.png'}")
    print(f"checkpoint  {folder / 'checkpoints' / 'checkpoint_last.pt'}")
    print(f"TensorBoard {folder / 'tensorboard'}")
    print(f"\n{table}\n")
    say(f"done in {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    sys.exit(run_program(main))
