"""Measures of how much clip vectors tell about labels.

From manifests to a report: ``labels.py`` and ``splits.py`` say which clips, ``vectors.py`` and ``baselines.py`` make
the arrays with an encoder, ``knn.py``, ``linear.py`` and ``scores.py`` work on arrays and know no models,
``probing.py`` puts them together, ``report.py`` and ``tables.py`` write it down.
"""
