"""A pretrained network with its front end as one ONNX file: waveforms in, frames and hidden states out.

The graph is traced from the modules of :class:`AudioEncoder` themselves, so nothing of the network is written twice;
:func:`check_onnx` compares what the file gives with PyTorch. Needs the extra ``onnx``.
"""

from __future__ import annotations

import copy
import importlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.encoder import COLUMNS, ENDLESS, AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.nn.autoencoder import Clips, Positions
from mae_ast_plugin.nn.positions import SinusoidPositions, sinusoid_frequencies, sinusoid_rows, sinusoid_table

OPSET = 20  # its DFT takes the torch.fft of the front end as it is; onnxruntime has it since 1.17
INPUT, OUTPUTS = "waveform", ("frames", "hidden_states")
LONGEST_SECONDS = 3600.0  # one window for whatever is compared
SHAKEN = 1e-6  # of full scale, -120 dB: what a spectrum summed in another order may differ by in float32
Result = TypeVar("Result")
CHECKED: tuple[tuple[int, float], ...] = ((1, 0.0), (3, 0.0), (3, 1.003), (1, 3.31))  # clips, seconds


class EndlessSinusoid(SinusoidPositions):
    """The same positions, computed in the graph for any number of tokens instead of looked up in a table that grows.

    Of a table that came with a checkpoint, the first ``most`` rows are kept as far as they differ from the computed
    ones.
    """

    def __init__(self, positions: SinusoidPositions, most: int) -> None:
        super().__init__(positions.dim)
        rows = positions.table[:most]
        different = (rows != sinusoid_table(len(rows), self.dim).to(rows)).any(dim=1).nonzero()
        self.table = rows[: int(different[-1]) + 1 if len(different) else 0].clone()
        # a constant, for another runtime's exp may round otherwise, and the number of a late token multiplies that
        self.frequency: Tensor
        self.register_buffer("frequency", sinusoid_frequencies(self.dim), persistent=False)

    def forward(self, num_tokens: int, padding: Tensor | None = None) -> Tensor:
        """Positions of ``num_tokens`` tokens, none of which is padding: (1, N, dim)."""
        stored = self.table.shape[0]
        rows = sinusoid_rows(torch.arange(stored, stored + num_tokens).float(), self.frequency)
        return (torch.cat([self.table, rows])[:num_tokens] if stored else rows)[None]


class WaveformNetwork(nn.Module):
    """What the file holds: waveforms (B, S) to frames (B, T, W) and hidden states (L + 1, B, T, W)."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.frontend, self.network, self.columns = encoder.frontend, encoder.network, encoder.columns

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        # not network.cut, which counts the tokens of each clip: the graph has no number of clips
        normalized = network.norm(self.frontend(waveform))
        patches = network.tokens.patchify(self._filled(normalized))
        clips = Clips(normalized=normalized, patches=patches, targets=patches, num_tokens=(), padding=None)
        encoded = network.features(clips)
        states = [encoded.tokens, *map(network.own_tokens, [*encoded.stack.hidden, encoded.stack.last])]
        *hidden, frames = (self._laid_out(each, normalized.shape[1]) for each in states)
        return frames, torch.stack(hidden)

    def _filled(self, normalized: Tensor) -> Tensor:
        """Fill the window up with the mean, for a network that sees full windows only."""
        if not self.network.fill_windows:
            return normalized
        missing = self.network.tokens.num_frames(self.network.window_columns) - normalized.shape[1]
        return F.pad(normalized, (0, 0, 0, missing))

    def _laid_out(self, states: Tensor, num_frames: int) -> Tensor:
        tokens = self.network.tokens
        laid_out = COLUMNS[self.columns](states, tokens.num_chan)
        if not self.network.fill_windows:
            return laid_out
        # also the column that the clip only begins; of positive numbers, for ONNX divides towards zero
        num_columns = (num_frames + tokens.stride_time - 1) // tokens.stride_time
        return laid_out[:, : num_columns * (tokens.num_chan if self.columns == "flat" else 1)]


def longest_clip(encoder: AudioEncoder) -> int | None:
    """Samples of the longest clip that the network takes in one window; None where it takes any."""
    network, grid = encoder.network, encoder.network.encoder_positions.grid
    limits = ([] if grid is None else [grid.num_time]) + ([network.window_columns] if network.window_columns else [])
    if not limits:
        return None
    if network.fill_windows:
        too_many = min(limits) * network.tokens.stride_time + 1
    else:
        too_many = network.tokens.num_frames(min(limits) + 1)
    return encoder.frontend.num_samples(too_many) - 1


def export_onnx(encoder: AudioEncoder, path: Path) -> None:
    """Write the front end and the encoder's layers as one ONNX file, in float32.

    Input ``waveform`` (B, S), float32 at ``encoder.sample_rate``: clips of equal length, at least ``encoder.shortest``
    samples, for there is no padding to hide. Outputs ``frames`` (B, T, W) and ``hidden_states`` (L + 1, B, T, W) as
    :class:`Embeddings` has them for one window, whatever the clip's length; of a table of sinusoids that came with the
    checkpoint, the file keeps what ``encoder.window_seconds`` needs and computes later rows. The metadata name
    ``sample_rate``, ``samples_per_step``, ``shortest``, ``longest`` (where the network has a limit; cut longer clips),
    ``columns`` and ``origin``. Weights of more than 2 GB, which no ONNX file holds, lie beside it in ``{path}.data``.
    PlainError where the extra is not installed or the encoder is training.
    """
    _export(encoder, path, lambda written: None)


def _export(encoder: AudioEncoder, path: Path, check: Callable[[Path], Result]) -> Result:
    """Write the file, let ``check`` look at it, and only then give it its name."""
    for name in ("onnx", "onnxscript", "onnx_ir"):
        _package(name)
    if path.is_dir():
        raise PlainError(f"{path} is a folder; give the name of a file, like {path / 'model.onnx'}")
    program = _traced(encoder)
    _describe(program, encoder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnx") as folder:
        written = Path(folder) / path.name
        program.save(written)
        found = check(written)
        for part in sorted(Path(folder).iterdir(), reverse=True):  # the weights of a large model first
            part.replace(path.parent / part.name)
    return found


def export_checked(encoder: AudioEncoder, path: Path, tolerance: float = 1e-4) -> float:
    """Write the file as :func:`export_onnx` does, but only once it has passed :func:`check_onnx`; returns what that
    returns.
    """

    def check(written: Path) -> float:
        try:
            return check_onnx(encoder, written, tolerance)
        except PlainError as error:
            reason = str(error).removeprefix(f"{written}: ")
            raise PlainError(f"{path} is not kept: {reason}") from error

    return _export(encoder, path, check)


def check_onnx(encoder: AudioEncoder, path: Path, tolerance: float = 1e-4) -> float:
    """Run the file with onnxruntime and compare every layer with ``encoder``, on noise of several lengths.

    Returns the largest difference, as a share of the layer's largest value. PlainError where it is above ``tolerance``
    and above what rounding of the samples does to PyTorch's own (logarithms of nearly empty mel bins enlarge it), or
    where the file cannot be run.
    """
    reference, session = _reference(encoder), _session(path)
    largest = 0.0
    for number, (num_clips, seconds) in enumerate(CHECKED):
        num_samples = max(encoder.shortest, min(int(seconds * encoder.sample_rate), longest_clip(encoder) or ENDLESS))
        clips = _noise(num_clips, num_samples, seed=number)
        with torch.no_grad():
            expected = reference(list(clips), encoder.sample_rate)
            shaken = reference(list(clips + SHAKEN * torch.randn_like(clips)), encoder.sample_rate)
        try:
            frames, hidden = (torch.from_numpy(found) for found in session.run(OUTPUTS, {INPUT: clips.numpy()}))
        except Exception as error:  # onnxruntime's own have no common class
            raise PlainError(f"{path}: onnxruntime cannot run it on {tuple(clips.shape)} samples: {error}") from error
        pairs = {
            "frames": (frames, expected.frames, shaken.frames),
            "hidden_states": (hidden, torch.stack(expected.hidden_states), torch.stack(shaken.hidden_states)),
        }
        for name, (found, wanted, moved) in pairs.items():
            difference, allowed = _difference(found, wanted), max(tolerance, _difference(moved, wanted))
            if not difference <= allowed:
                raise PlainError(
                    f"{path}: its {name} differ from PyTorch's by {difference:.2g} of their largest value for "
                    f"{num_clips} clips of {num_samples} samples, more than {allowed:.2g}; do not use it"
                )
            largest = max(largest, difference)
    return largest


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PlainError(f'ONNX needs the package {name}: pip install "mae-ast-plugin[onnx]"') from error


def _reference(encoder: AudioEncoder) -> AudioEncoder:
    """The same encoder as the file computes it: on the CPU, in float32, each clip in one window."""
    if encoder.training:
        raise PlainError("the encoder is in training mode, in which dropout changes what it gives; call eval() first")
    frontend, network = encoder.frontend, encoder.network
    if encoder.device.type != "cpu":
        frontend, network = copy.deepcopy(frontend).cpu(), copy.deepcopy(network).cpu()
    options: dict[str, Any] = {"columns": encoder.columns, "window_seconds": LONGEST_SECONDS}
    return AudioEncoder(frontend, network, encoder.checkpoint, **options).eval()


def _traced(encoder: AudioEncoder) -> torch.onnx.ONNXProgram:
    reference = _reference(encoder)
    tokens, frontend = reference.network.tokens, reference.frontend
    longest = longest_clip(reference)
    # Samples and frames are left over: had the example none, the trace would suppose that there never are any.
    num_samples = frontend.num_samples(tokens.num_frames(3) + 1) + 1
    example = torch.zeros(2, num_samples if longest is None else min(num_samples, longest))
    samples = torch.export.Dim("samples", min=reference.shortest, max=longest)
    positions = reference.network.encoder_positions
    with _quiet(), torch.no_grad(), _endless(positions, _most_tokens(encoder)):
        program = torch.onnx.export(
            WaveformNetwork(reference).eval(),
            (example,),
            dynamo=True,
            verbose=False,
            optimize=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("clips", min=1), 1: samples},),
        )
    assert program is not None
    return program


def _most_tokens(encoder: AudioEncoder) -> int:
    """Tokens of the encoder's longest window, or of an hour where it has none."""
    seconds = min(encoder.window_seconds, LONGEST_SECONDS)
    return encoder.network.tokens.num_tokens(encoder.frontend.num_frames(int(seconds * encoder.sample_rate)))


@contextmanager
def _endless(positions: Positions, most: int) -> Iterator[None]:
    """Trace positions that are computed in place of a table that grows."""
    sinusoid = positions.sinusoid
    if sinusoid is not None:
        positions.sinusoid = EndlessSinusoid(sinusoid, most)
    try:
        yield
    finally:
        positions.sinusoid = sinusoid


def _describe(program: torch.onnx.ONNXProgram, encoder: AudioEncoder) -> None:
    """Name sizes and settings in the graph, and take out where in whose source each node was traced."""
    graph = program.model.graph
    for values in (graph.initializers.values(), *(node.outputs for node in graph)):
        for value in values:
            value.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
    graph.metadata_props.clear()
    steps = ("clips", "steps", encoder.dim)  # the trace has formulas of the samples there
    for output, shape in zip(graph.outputs, (steps, (encoder.num_layers + 1, *steps)), strict=True):
        output.shape = _package("onnx_ir").Shape(shape)
    program.model.metadata_props.update(_metadata(encoder))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracer's remarks to its own developers from the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _metadata(encoder: AudioEncoder) -> dict[str, str]:
    longest = longest_clip(encoder)
    return {
        "sample_rate": str(encoder.sample_rate),
        "samples_per_step": str(encoder.samples_per_step),
        "shortest": str(encoder.shortest),
        **({} if longest is None else {"longest": str(longest)}),
        "columns": encoder.columns,
        "origin": encoder.checkpoint.origin if encoder.checkpoint else "",
    }


def _session(path: Path) -> Any:
    runtime = _package("onnxruntime")
    if not path.is_file():
        raise PlainError(f"{path}: there is no such file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own have no common class
        raise PlainError(f"{path}: onnxruntime cannot load it: {error}") from error


def _noise(num_clips: int, num_samples: int, seed: int) -> Tensor:
    """Clips (B, S) of noise, from loud to nearly silent: what is quiet shows rounding first."""
    noise = torch.rand(num_clips, num_samples, generator=torch.Generator().manual_seed(seed)) - 0.5
    return noise * torch.logspace(0, -3, num_samples)


def _difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference in each layer as a share of its largest value, the largest of them; infinite where the
    shapes differ.
    """
    if found.shape != wanted.shape:
        return float("inf")
    found, wanted = (states.reshape(-1, *states.shape[-3:]).flatten(1) for states in (found, wanted))
    return float(((found - wanted).abs().amax(dim=1) / wanted.abs().amax(dim=1).clamp(min=1e-30)).max())
