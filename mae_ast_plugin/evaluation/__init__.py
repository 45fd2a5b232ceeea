"""Measures of how good a set of clip vectors is.

Works on arrays that somebody else computed; knows nothing of models or of sound files.
"""
