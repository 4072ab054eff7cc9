"""Evaluation of features and predictions.

``features``: features of all clouds, over all ranks. ``svm``, ``fewshot``: linear SVMs
on them; ``knn``: nearest neighbours; ``judges``: all of these, and few labels, on clean
and corrupted clouds; ``metrics``: confusion matrices and IoU.
``probe``: the probe of pre-training. ``predict``: features, neighbours, classes and
parts of any clouds. Imports ``utils.parallel`` and ``utils.run``.
"""
