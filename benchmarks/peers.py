"""The programs we are measured against: torchaudio's Kaldi fbank and the MAE-AST model that s3prl bundles.

Both come from PyPI (`make bench-setup`). torchaudio's published package is a CUDA build whose compiled part does not
load beside a CPU build of torch; its pure Python parts do, once the package is entered without its start-up code.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def _enter_torchaudio() -> None:
    try:
        importlib.import_module("torchaudio")
    except OSError:
        found = importlib.util.find_spec("torchaudio")
        assert found is not None and found.origin is not None
        package = ModuleType("torchaudio")
        package.__path__ = [str(Path(found.origin).parent)]
        sys.modules["torchaudio"] = package


def torchaudio_kaldi() -> Any:
    """The module torchaudio.compliance.kaldi."""
    _enter_torchaudio()
    return importlib.import_module("torchaudio.compliance.kaldi")


def s3prl_mae_ast() -> Any:
    """The module s3prl.upstream.mae_ast.mae_ast; ends with a sentence where s3prl is not installed."""
    try:
        return importlib.import_module("s3prl.upstream.mae_ast.mae_ast")
    except ModuleNotFoundError as error:
        raise SystemExit(f"this benchmark compares with s3prl 0.4.18 ({error}); run make bench-setup first") from error


def s3prl_upstream() -> Any:
    """The class of the bundled upstream, s3prl.upstream.mae_ast.expert.UpstreamExpert."""
    s3prl_mae_ast()
    kaldi = torchaudio_kaldi()
    torchaudio: Any = sys.modules["torchaudio"]
    torchaudio.compliance = importlib.import_module("torchaudio.compliance")
    torchaudio.compliance.kaldi = kaldi
    return importlib.import_module("s3prl.upstream.mae_ast.expert").UpstreamExpert
