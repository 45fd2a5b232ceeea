"""``evaluate``: the scores are those of the encoder's vectors under scikit-learn, and every mistake is one sentence."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer, StandardScaler

from mae_ast_plugin import load_model
from mae_ast_plugin.__main__ import main
from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation import scikit
from mae_ast_plugin.evaluation.baselines import random_twin
from mae_ast_plugin.pooling import normalised, pool_mean
from manifests.__main__ import main as manifests

RATE = 8000
CLASSES = ("hiss", "tone", "pulse")
SPEAKERS = ("anna", "ben", "carl")


def sound(kind: str, seed: int) -> np.ndarray:
    """A fifth of a second or more of one of ``CLASSES``, much disturbed."""
    rng = np.random.default_rng(seed)
    time = np.arange(rng.integers(1600, 2600)) / RATE
    made = {
        "hiss": 0.1 * rng.standard_normal(len(time)),
        "tone": 0.1 * np.sin(2 * np.pi * rng.uniform(300, 900) * time),
        "pulse": 0.5 * (np.sin(2 * np.pi * rng.uniform(10, 30) * time) > 0.98),
    }
    return sum(made.values()) * 0.3 + made[kind] + rng.uniform(0.001, 0.1) * rng.standard_normal(len(time))  # type: ignore[no-any-return]


def write_clips(folder: Path, name: str, labels: Sequence[str], seed: int) -> Path:
    """A manifest of as many clips as labels, by speakers in turn; of several labels the first is what one hears."""
    rows = []
    for number, label in enumerate(labels):
        place = Path(SPEAKERS[number % 3], f"{name}_{number}.wav")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        samples = sound(label.split(",")[0], seed + number)
        soundfile.write(folder / place, samples, RATE)
        rows.append((str(place), len(samples)))
    path = folder / f"{name}.tsv"
    write_manifest(path, folder, rows, labels=labels)
    return path


def one_each(count: int, seed: int) -> list[str]:
    return [str(label) for label in np.random.default_rng(seed).permutation([CLASSES[row % 3] for row in range(count)])]


def several(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{label},{rng.choice(CLASSES)}" if rng.uniform() < 0.5 else label for label in one_each(count, seed)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled clips: train, valid and test with one label each, tags_train and tags_test with several."""
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (name, count) in enumerate({"train": 30, "valid": 12, "test": 15}.items()):
        write_clips(folder, name, one_each(count, seed), 1000 * seed)
    for seed, (name, count) in enumerate({"tags_train": 24, "tags_test": 12}.items()):
        write_clips(folder, name, several(count, seed), 10000 + 1000 * seed)
    return folder


@pytest.fixture(scope="module")
def trained(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint moved away from the weights that its random twin would draw again."""
    content = torch.load(checkpoint, weights_only=True)
    generator = torch.Generator().manual_seed(1)
    for tensor in content["model"].values():
        if tensor.is_floating_point() and tensor.dim() > 1:
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pt"
    torch.save(content, path)
    return path


def evaluate(folder: Path, probe: str, *options: str) -> dict[str, Any]:
    """Run the command and give the rows of its data by name and layer, the whole below ""."""
    out = folder / "scores.json"
    assert main(["evaluate", probe, *options, "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    return {"": content, **{(row["vectors"], row["layer"]): row for row in content["rows"]}}  # type: ignore[dict-item]


def splits(corpus: Path, *names: str, prefix: str = "") -> list[str]:
    return [word for name in names for word in (f"--{name}", str(corpus / f"{prefix}{name}.tsv"))]


def vectors_of(encoder: Any, manifest: Path) -> tuple[list[np.ndarray], list[str]]:
    """Mean vectors of every layer, straight from the encoder, a clip at a time; and the labels."""
    rows = list(Manifest.load(manifest))
    pooled = []
    with torch.no_grad():
        for row in rows:
            embedded = encoder([torch.from_numpy(read(row.path)[0])], RATE)
            pooled.append([pool_mean(normalised(states), embedded.lengths)[0] for states in embedded.hidden_states])
    return [torch.stack(layer).double().numpy() for layer in zip(*pooled, strict=True)], [
        str(row.label) for row in rows
    ]


# ---- the law: files through the command give what the vectors give


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_scores_of_files_are_those_of_the_vectors(probe: str, trained: Path, corpus: Path, tmp_path: Path) -> None:
    command = ["--checkpoint", str(trained), *splits(corpus, "train", "test"), "--pool", "mean"]
    rows = evaluate(tmp_path, probe, *command)
    model = KNeighborsClassifier(5, metric="cosine") if probe == "knn" else LogisticRegression(C=0.1, max_iter=1000)
    encoder = load_model(trained)
    for name, source in (("pretrained", encoder), ("random weights", random_twin(encoder))):
        (train_x, train_y), (test_x, test_y) = (
            vectors_of(source, corpus / f"{split}.tsv") for split in ("train", "test")
        )
        for layer, (x, held_out) in enumerate(zip(train_x, test_x, strict=True)):
            predicted = make_pipeline(StandardScaler(), model).fit(x, train_y).predict(held_out)
            assert rows[name, layer]["measures"] == {  # type: ignore[index]
                "accuracy": pytest.approx(accuracy_score(test_y, predicted)),
                "macro-F1": pytest.approx(f1_score(test_y, predicted, average="macro")),
            }
    assert rows["chance", None]["measures"]["accuracy"] == pytest.approx(1 / 3)  # type: ignore[index]
    measured = [row["measures"]["accuracy"] for key, row in rows.items() if key]
    assert len(measured) == 2 * 3 + 2 and len(set(measured)) > 3


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_clips_with_several_labels_are_scored_by_their_precision(
    probe: str, trained: Path, corpus: Path, tmp_path: Path
) -> None:
    command = ["--checkpoint", str(trained), *splits(corpus, "train", "test", prefix="tags_"), "--pool", "mean"]
    rows = evaluate(tmp_path, probe, *command, "--layers", "2", "--no-baselines")
    (train_x, train_y), (test_x, test_y) = (
        vectors_of(load_model(trained), corpus / f"tags_{split}.tsv") for split in ("train", "test")
    )
    binary = MultiLabelBinarizer().fit([label.split(",") for label in train_y])
    targets, truth = (binary.transform([label.split(",") for label in labels]) for labels in (train_y, test_y))
    if probe == "knn":
        scores = make_pipeline(StandardScaler(), KNeighborsRegressor(5, metric="cosine")).fit(train_x[2], targets)
        predicted = scores.predict(test_x[2])
    else:
        regression = OneVsRestClassifier(LogisticRegression(C=0.1, max_iter=1000))
        predicted = make_pipeline(StandardScaler(), regression).fit(train_x[2], targets).decision_function(test_x[2])
    expected = average_precision_score(truth, predicted, average="macro")
    assert rows["pretrained", 2]["measures"] == {"mAP": pytest.approx(expected)}  # type: ignore[index]
    assert rows["chance", None]["measures"]["mAP"] == pytest.approx(truth.mean(axis=0).mean())  # type: ignore[index]
    assert rows[""]["several_labels"] and rows[""]["classes"] == sorted(CLASSES)
    assert set(rows) == {"", ("pretrained", 2), ("chance", None)}


def test_each_group_is_scored_with_the_others(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--checkpoint", str(trained), *splits(corpus, "train"), "--pool", "mean", "--leave-out", "^([^/]+)/"]
    rows = evaluate(tmp_path, "knn", *command, "--k", "3")
    printed = capsys.readouterr().out
    (_, _, x), labels = vectors_of(load_model(trained), corpus / "train.tsv")
    groups, labels = np.arange(30) % 3, np.array(labels)
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(3, metric="cosine"))
    expected = [
        accuracy_score(
            labels[groups == group], model.fit(x[groups != group], labels[groups != group]).predict(x[groups == group])
        )
        for group in range(3)
    ]
    found = rows["pretrained", 2]  # type: ignore[index]
    assert [found["groups"][speaker]["accuracy"] for speaker in SPEAKERS] == pytest.approx(expected)
    assert found["measures"]["accuracy"] == pytest.approx(np.mean(expected))
    best = rows["pretrained", rows[""]["chosen"]["layers"]["pretrained"]]["groups"]  # type: ignore[index]
    shown = ", ".join(f"{speaker} {100 * best[speaker]['accuracy']:.1f} %" for speaker in SPEAKERS)
    assert f"of pretrained: {shown}\n" in printed and "means over 3 groups" in printed


def test_layer_and_c_are_chosen_on_valid_alone(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--checkpoint", str(trained), "--no-baselines", "--pool", "mean"]
    rows = evaluate(tmp_path, "linear", *command, *splits(corpus, "train", "valid", "test"))
    assert "chosen on valid; the scores are those of test" in capsys.readouterr().out
    on_valid = {layer: rows["pretrained", layer]["valid"]["accuracy"] for layer in range(3)}  # type: ignore[index]
    chosen = rows[""]["chosen"]
    assert chosen["on"] == "valid" and on_valid[chosen["layers"]["pretrained"]] == max(on_valid.values())
    for layer in range(3):
        found = rows["pretrained", layer]  # type: ignore[index]
        c = found["setting"].removeprefix("C=")
        again = evaluate(
            tmp_path, "linear", *command, *splits(corpus, "train", "test"), "--C", c, "--layers", str(layer)
        )
        assert again["pretrained", layer]["measures"] == found["measures"]  # type: ignore[index]
        for other in ("0.0001", "10"):
            swapped = ["--train", str(corpus / "train.tsv"), "--test", str(corpus / "valid.tsv"), "--C", other]
            there = evaluate(tmp_path, "linear", *command, *swapped, "--layers", str(layer))
            assert there["pretrained", layer]["measures"]["accuracy"] <= on_valid[layer]  # type: ignore[index]


# ---- what is printed


@pytest.mark.parametrize("with_valid", [False, True])
def test_the_table_shows_the_numbers_of_the_data(
    with_valid: bool, trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("train", "valid", "test") if with_valid else ("train", "test")
    rows = evaluate(tmp_path, "knn", "--checkpoint", str(trained), *splits(corpus, *names), "--layers=-1,0,2")
    printed = capsys.readouterr().out
    whole = rows.pop("")
    for (name, layer), row in rows.items():
        first = {None: name, 0: "0 (tokens' embedding)"}.get(layer, str(layer))
        (line,) = re.findall(rf"^{re.escape(first)}  .*%.*$", printed, re.MULTILINE)
        on_valid = [row["valid"]["accuracy"]] if with_valid and layer is not None else []
        values = [*on_valid, *row["measures"].values()]
        begin = len(values) if name == "random weights" else 0
        shown = re.findall(r"([0-9.]+) %( \*)?", line)[begin : begin + len(values)]
        assert [number for number, _ in shown] == [f"{100 * value:.1f}" for value in values]
        is_chosen = whole["chosen"]["layers"].get(name) == layer
        assert [bool(star) for _, star in shown] == [is_chosen and layer is not None] + [False] * (len(values) - 1)
    assert [(row["vectors"], row["layer"]) for row in whole["rows"]] == [
        *(("pretrained", layer) for layer in (2, 0)),
        *(("random weights", layer) for layer in (2, 0)),
        ("log-mel mean and std", None),
        ("chance", None),
    ]
    assert (
        f"{trained} (mae_ast_plugin, 77 updates), pool statistics, columns join\n5-NN; 3 classes, one label each\n"
        in printed
    )
    assert f"test: 15 clips of {corpus / 'test.tsv'}, 0 unreadable\n" in printed
    assert ("a little optimistic" in printed) != with_valid
    assert whole["checkpoint"] == {"path": str(trained), "origin": "mae_ast_plugin", "num_updates": 77}


def test_unreadable_clips_are_left_out_counted_and_named(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--checkpoint", str(trained), "--train", str(corpus / "train.tsv"), "--no-baselines"]
    whole = evaluate(tmp_path, "knn", *command, "--test", str(corpus / "test.tsv"))
    capsys.readouterr()
    lines = (corpus / "test.tsv").read_text().splitlines()
    (tmp_path / "text.wav").write_text("no audio")
    bad = [f"{tmp_path}/text.wav\t800\ttone", *(f"none_{number}.wav\t800\thiss" for number in range(11))]
    (tmp_path / "test.tsv").write_text("\n".join([lines[0], bad[0], *lines[1:7], *bad[1:], *lines[7:]]) + "\n")
    found = evaluate(tmp_path, "knn", *command, "--test", str(tmp_path / "test.tsv"))
    printed = capsys.readouterr().out
    assert f"test: 15 clips of {tmp_path / 'test.tsv'}, 12 unreadable\n  left out: " in printed
    assert "text.wav holds text, not audio" in printed and "left out: none_0.wav does not exist" in printed
    assert "and 2 more (--json names all)" in printed and "none_9.wav" not in printed
    assert [each["name"] for each in found[""]["splits"]["test"]["unreadable"]][1:] == [
        f"none_{number}.wav" for number in range(11)
    ]
    assert found[""]["rows"] == whole[""]["rows"]


# ---- mistakes


def mistake(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """The one sentence that a command ends with."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, command)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("mae_ast_plugin: ")
    return captured.err


def manifest(folder: Path, name: str, *rows: str) -> Path:
    """A manifest of rows as they stand, with "|" for TAB."""
    path = folder / name
    path.write_text("\n".join([str(folder), *rows]).replace("|", "\t") + "\n")
    return path


TRAIN = tuple(f"{number}.wav|800|{label}" for number, label in enumerate(["hiss", "tone"] * 3))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (TRAIN, ("8.wav|800|hiss", "9.wav|800"), "test.tsv line 3 has no label: write a TAB and the label"),
        ((*TRAIN, "8.wav|800|"), ("9.wav|800|hiss",), "train.tsv line 8 has no label"),
        (TRAIN, ("8.wav|800|hiss", "9.wav|800|moo"), "test.tsv line 3: the label 'moo' is in no row of"),
        (TRAIN[::2], ("9.wav|800|hiss",), "train.tsv has one class only, 'hiss'"),
        (TRAIN, (), "test.tsv has no rows"),
        ((), ("9.wav|800|hiss",), "train.tsv has no rows"),
        (TRAIN, ("4.wav|800|hiss",), "test.tsv line 2: 4.wav is in"),
        (TRAIN[:4], ("9.wav|800|hiss",), "k is 5, and"),
        (TRAIN, ("9.wav|800|hiss",), "train.tsv: none of its 6 clips can be read; the first, 0.wav, does not exist"),
        (TRAIN, ("9.wav|many|hiss",), "test.tsv line 2: the length 'many' is not a whole number"),
    ],
)
def test_a_manifest_that_cannot_be_scored_is_one_sentence(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    train: Sequence[str],
    test: Sequence[str],
    message: str,
) -> None:
    paths = [manifest(tmp_path, "train.tsv", *train), manifest(tmp_path, "test.tsv", *test)]
    assert message in mistake(capsys, "knn", "--checkpoint", checkpoint, "--train", paths[0], "--test", paths[1])


def test_a_label_of_which_no_clip_can_be_read_is_one_sentence(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readable = (corpus / "train.tsv").read_text().splitlines()[1:]
    train = manifest(tmp_path, "train.tsv", *(f"{corpus}/{line}" for line in readable), "none.wav|800|moo")
    test = manifest(tmp_path, "test.tsv", f"{corpus}/anna/test_0.wav|800|moo")
    command = ["knn", "--checkpoint", checkpoint, "--train", train, "--test", test]
    assert "test.tsv line 2: the label 'moo' is in no clip that can be read of" in mistake(capsys, *command)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["knn", "--test", "test.tsv", "--layers", "0,3"], "there is no layer 3; this network has 0"),
        (["knn", "--test", "test.tsv", "--layers", "last"], "--layers is 'last'; give all, or numbers like 0,3,-1"),
        (["knn", "--test", "test.tsv", "--pool", "median"], "--pool is 'median'; it must be one of mean, max"),
        (["knn", "--test", "test.tsv", "--k", "0"], "--k is 0; it must be 1 or more"),
        (["linear", "--test", "test.tsv", "--C", "0"], "--C is 0.0; it must be more than 0"),
        (["linear"], "there is nothing to score: give --test, or --leave-out"),
        (["knn", "--test", "test.tsv", "--leave-out", "(x)"], "leave out --test and --valid"),
        (["knn", "--leave-out", "(xyz)"], "train.tsv line 2: --leave-out '(xyz)' finds no group in 'anna/train_0.wav'"),
        (["knn", "--leave-out", "(train)"], "all clips are of the group 'train'"),
        (["knn", "--leave-out", "train"], "has no group: put parentheses"),
        (["knn", "--leave-out", "^([^/]+)/", "--k", "21"], "k is 21, and"),
        (["knn", "--test", "none.tsv"], "none.tsv does not exist"),
        (["knn", "--test", "test.tsv", "--json", "none/out.json"], "none does not exist, make it first"),
        (["knn", "--test", "test.tsv", "--json", "anna"], "--json anna cannot be written"),
        (["knn", "--test", "test.tsv", "--device", "abacus"], "--device abacus cannot be used here"),
        (["knn", "--test", "test.tsv", "--batch-seconds", "0"], "batch_seconds is 0.0; it must be more than 0"),
        (["knn", "--test", "test.tsv", "--checkpoint", "none.pt"], "none.pt: "),
        (["knn", "--test", "test.tsv", "--checkpoint", "test.tsv"], "test.tsv: "),
    ],
)
def test_an_option_that_cannot_be_is_one_sentence(
    checkpoint: Path,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(corpus)
    given = [options[0], "--checkpoint", str(checkpoint), "--train", "train.tsv", *options[1:]]
    assert message in mistake(capsys, *given)


def test_without_scikit_learn_the_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.dummy", None)
    with pytest.raises(PlainError, match=r'pip install "mae-ast-plugin\[evaluation\]"'):
        runpy.run_path(scikit.__file__)


# ---- the page


def test_the_commands_of_the_page_run_one_after_the_other(
    checkpoint: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (repository / "docs" / "evaluate.md").read_text(encoding="utf-8").split("\n## Embeddings for many files")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line for language, body in blocks if not language for line in body.splitlines()]
    for number in range(45):
        kind = CLASSES[number % 3]
        (tmp_path / "AUDIO" / kind).mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "AUDIO" / kind / f"clip {number}.wav", sound(kind, number), RATE)
    (tmp_path / "MANIFESTS").mkdir()
    digits = [f"{place}/{digit}_{place}_0.wav" for place in SPEAKERS for digit in range(3)]
    for number, name in enumerate(digits):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, sound(CLASSES[number % 3], number), RATE)
    rows = [(name, 1600) for name in digits]
    write_manifest(
        tmp_path / "MANIFESTS" / "digits.tsv", tmp_path, rows, labels=[Path(name).name[0] for name in digits]
    )
    (tmp_path / "checkpoint_best.pt").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    for line in lines:
        capsys.readouterr()
        program = re.match(r"python -m (\w+) (.*)", line)
        if program:
            command = {"mae_ast_plugin": main, "manifests": manifests}[program[1]]
            assert command(shlex.split(program[2])) == 0, capsys.readouterr().err
        else:
            subprocess.run(["sh", "-c", line], check=True)
    assert len(lines) == 6
    labelled = [
        row.label for split in ("train", "valid", "test") for row in Manifest.load(f"MANIFESTS/labelled_{split}.tsv")
    ]
    assert sorted(labelled) == sorted(CLASSES * 15)  # type: ignore[type-var]
    assert json.loads(Path("scores.json").read_text())["probe"] == "linear probe"
