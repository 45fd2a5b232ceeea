"""A small synthetic corpus, so that every command can be tried without downloading anything.

Knows nothing of models; it writes sound files and stops there.
"""
