"""Measures of how good a set of clip vectors is.

``knn.py`` works on arrays and knows no models; ``vectors.py`` makes the arrays with an encoder.
"""
