"""The entries of this upstream, by the rules of torch.hub and s3prl: every public name is an upstream.

``mae_ast_plugin_local`` and ``mae_ast_plugin_custom`` take any checkpoint that ``load_model`` reads; s3prl's own
``mae_ast_local``, ``mae_ast_patch`` and ``mae_ast_frame`` stay what they are. For every file of ``upstreams/`` there is
one more, ``mae_ast_plugin_dasheng_local`` and so on: the same with that file's options, as if it was given with ``-g``.
"""

# no "from __future__" here: s3prl takes all public names of this module into its list
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

from .expert import UpstreamExpert as _UpstreamExpert
from .fetch import fetch as _fetch


def mae_ast_plugin_local(
    ckpt: str | None = None, model_config: _Any = None, refresh: bool = False, **kwargs: _Any
) -> _UpstreamExpert:
    """Make the upstream of a checkpoint on disk.

    ``model_config`` is the path of a YAML of options or a mapping; options may also be given by name. ``refresh`` is
    what s3prl passes to every entry.
    """
    return _UpstreamExpert(ckpt, model_config, **kwargs)


def mae_ast_plugin_custom(
    ckpt: str | None = None, model_config: _Any = None, refresh: bool = False, **kwargs: _Any
) -> _UpstreamExpert:
    """Make the upstream of a checkpoint on disk or at a URL; a download is kept until ``refresh`` asks for another."""
    return _UpstreamExpert(_fetch(ckpt, refresh), model_config, **kwargs)


def _with_options_of(file: _Path) -> _Callable[..., _UpstreamExpert]:
    def entry(
        ckpt: str | None = None, model_config: _Any = None, refresh: bool = False, **kwargs: _Any
    ) -> _UpstreamExpert:
        return mae_ast_plugin_custom(ckpt, model_config or file, refresh, **kwargs)

    entry.__name__ = f"mae_ast_plugin_{file.stem}_local"
    entry.__doc__ = f"Make the upstream of a checkpoint on disk or at a URL with the options of {file.name}."
    return entry


globals().update(
    (_entry.__name__, _entry)
    for _entry in map(_with_options_of, sorted((_Path(__file__).parent / "upstreams").glob("*.yaml")))
)
