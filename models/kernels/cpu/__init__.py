"""kNN, EdgeConv and pooling on the CPU, compiled by Numba: no compiler is needed.

Rows of all clouds stand below each other: ``x`` is (R, C), cloud b has the rows
``first[b]`` to ``first[b + 1]``. A row may stand for several identical points; then
``copies`` or ``weight`` say how many. :mod:`models.fused` explains the algebra, and the
plain form in :mod:`models.edgeconv` is what these kernels are tested against.

Sums over tasks are added in the order of the tasks, so that the number of threads does
not change a bit of the result.
"""
