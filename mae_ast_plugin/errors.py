"""The one kind of error a user can mend.

Knows nothing of audio, models or fairseq; every room may raise it, and every command prints it as one sentence without
a trace.
"""

from __future__ import annotations


class PlainError(ValueError):
    """A mistake in the user's input: says where it is, what was found and how to mend it, in one sentence."""
