"""Do all methods learn? Their ``_tiny`` recipes on spoken digits, the same CPU minutes each: ``python
benchmarks/learn_methods.py --data FOLDER``.

Each recipe is timed for some updates and then pretrained for as many as fit into ``--cpu-minutes`` on one thread, with
clip limits and saving as in ``learn_fsdd.py``, which also scores: 5-NN, one speaker left out, best layer of each side.
A recipe whose score is in ``--out`` already is not run again, so an interrupted table goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from learn_fsdd import REPOSITORY, pretrain, scores

from mae_ast_plugin.encoder import load_model
from mae_ast_plugin.evaluation.tables import format_table
from mae_ast_plugin.launch.recipes import recipe_folder, recipe_names

SHORT, LONG = 40, 140  # updates of the two runs that a recipe is timed with


def updates_in(data: Path, out: Path, recipe: str, cpu_minutes: float) -> int:
    """Updates of a recipe that take ``cpu_minutes``, start-up included."""
    minutes = [
        pretrain(data, out / f"timing{count}", 1, [f"optimization.max_update={count}"], recipe)[1]
        for count in (SHORT, LONG)
    ]
    per_update = (minutes[1] - minutes[0]) / (LONG - SHORT)
    return max(LONG, int((cpu_minutes - minutes[0]) / per_update) + SHORT)


def learn(
    data: Path, out: Path, recipe: str, cpu_minutes: float, pooling: str, seed: int, overrides: Sequence[str]
) -> list[str]:
    """Pretrain one recipe and score it: a row of the table."""
    count = updates_in(data, out, recipe, cpu_minutes)
    checkpoint, cpu, _ = pretrain(
        data, out / f"{count}", seed, [f"optimization.max_update={count}", *overrides], recipe
    )
    found = scores(load_model(checkpoint), data, pooling)
    ahead = found["pretrained"][0] - found["random weights"][0]
    return [f"{cpu:.1f}", f"{count}", *(f"{value:.1f}" for value, _ in found.values()), f"{ahead:+.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "fsdd")
    parser.add_argument("--out", type=Path, default=Path("runs/learn_methods"))
    parser.add_argument("--cpu-minutes", type=float, default=6.0)
    parser.add_argument("--pooling", default="segments")
    parser.add_argument("--seed", type=int, default=1)
    tiny = [name for name in recipe_names([recipe_folder()]) if name.endswith("_tiny")]
    parser.add_argument("--recipes", nargs="+", default=tiny)
    parser.add_argument("overrides", nargs="*", help="further settings of the training, behind --")
    options = parser.parse_args()
    data, rows = options.data.resolve(), []
    for recipe in options.recipes:
        place = (options.out / recipe).resolve()
        asked = [str(data), options.cpu_minutes, options.pooling, options.seed, *options.overrides]
        if not (place / "score.json").is_file() or json.loads((place / "score.json").read_text())["asked"] != asked:
            place.mkdir(parents=True, exist_ok=True)
            row = learn(data, place, recipe, options.cpu_minutes, options.pooling, options.seed, options.overrides)
            (place / "score.json").write_text(json.dumps({"asked": asked, "row": row}))
        rows.append([recipe, *json.loads((place / "score.json").read_text())["row"]])
        print(" ".join(rows[-1]), flush=True)
    header = ["recipe", "CPU minutes", "updates", "pretrained %", "random weights %", "log-mel %", "ahead"]
    print(format_table(rows, header))


if __name__ == "__main__":
    main()
