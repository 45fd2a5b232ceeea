"""The entries of this upstream, by the rules of torch.hub and s3prl: every public name is an upstream.

``mae_ast_plugin_local`` and ``mae_ast_plugin_custom`` take any checkpoint that ``load_model`` reads; s3prl's own
``mae_ast_local``, ``mae_ast_patch`` and ``mae_ast_frame`` stay what they are.
"""

# no "from __future__" here: s3prl takes all public names of this module into its list
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
