"""``python -m benchmarks.gpu``: is it right, and fast, on this machine's GPU?

``check.py`` runs rows, each a function of one of the others: ``exact.py`` (the fused
form against the plain one), ``runs.py`` (the script), ``speed.py``. docs/gpu.md
explains them.
"""
