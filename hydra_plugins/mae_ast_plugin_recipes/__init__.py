"""Lets ``fairseq-hydra-train`` find the recipes of mae_ast_plugin by name; Hydra discovers this file once it is
installed.
"""

from __future__ import annotations

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class RecipeSearchPath(SearchPathPlugin):
    """Prepares fairseq's command line; any other Hydra program is left alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if "fairseq_cli.hydra_train" in sys.modules:
            from mae_ast_plugin.launch.prepare import prepare

            prepare(search_path)
