"""How good features and predictions are.

``features``: features of all clouds, over all ranks. ``svm``, ``fewshot``: linear SVMs
on them. ``metrics``: confusion matrices and IoU. ``probe``: a test split as the SVM
probe of pre-training classified it. ``predict``: features, neighbours, classes and
parts of any clouds. Imports ``utils.parallel`` and ``utils.run``.
"""
