"""The upstream for s3prl: SUPERB's tasks on any checkpoint that ``mae_ast_plugin.load_model`` reads.

``hubconf`` and ``expert`` follow s3prl's rules for a folder in ``s3prl/upstream`` and need torch only. The rest serves
those who leave s3prl as it is: ``run_downstream`` is its command with this upstream in its list, ``registration`` does
the same for Python, ``compat`` holds what s3prl 0.4.18 needs on today's torchaudio. Guide: ``docs/superb.md``.
"""
