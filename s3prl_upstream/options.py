"""What ``-g`` may choose: how patches become features, windows and strides, and whether the decoder's layers count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mae_ast_plugin.errors import PlainError

COLUMNS = {
    "join": "the patches of a time column side by side",
    "mean": "their mean",
    "flat": "one step per patch",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the upstream; ``docs/superb.md`` says what each is for."""

    columns: str = "join"
    decoder: bool = False
    window_seconds: float = 0.0
    stride_time: int = 0
    stride_chan: int = 0


def read_options(source: str | Path | Mapping[str, Any] | None, given: Mapping[str, Any] | None = None) -> Options:
    """Read options from a YAML or a mapping, ``given`` on top; PlainError where one is unknown or has no such value."""
    where, chosen = "options of the upstream", {}
    if isinstance(source, Mapping):
        chosen = dict(source)
    elif source is not None:
        where, chosen = str(source), _read_yaml(Path(source))
    chosen |= given or {}
    known = [field.name for field in fields(Options)]
    for name in chosen:
        if name not in known:
            raise PlainError(f"{where}: there is no option {name!r}; there are {', '.join(known)}")
    options = Options(**chosen)
    if options.columns not in COLUMNS:
        meanings = ", ".join(f"{name} ({meaning})" for name, meaning in COLUMNS.items())
        raise PlainError(f"{where}: columns is {options.columns!r}; it must be one of {meanings}")
    for name in ("window_seconds", "stride_time", "stride_chan"):
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise PlainError(f"{where}: {name} is {value!r}; it must be a number, 0 to leave it as the model has it")
    if options.window_seconds and options.decoder:
        raise PlainError(f"{where}: window_seconds and decoder do not go together")
    if not isinstance(options.decoder, bool):
        raise PlainError(f"{where}: decoder is {options.decoder!r}; it must be true or false")
    return options


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # s3prl brings it; without s3prl options are a mapping

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlainError(f"{path}: {error.strerror or error}; -g takes a YAML of {asdict(Options())}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlainError(f"{path}: it is no YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise PlainError(f"{path}: it holds {content!r}; it must hold lines such as 'columns: mean'")
    return {str(name): value for name, value in content.items()}
