"""EdgeConv and pooling without a tensor of all edges: the numbers of the plain form.

R is the number of points of all clouds together, K that of neighbours, C of channels.

**EdgeConv.** Split the convolution's weight into [W1 | W2]. The edge from point i to
its neighbour j then has

    y_ij = W1 (x_j - x_i) + W2 x_i = a_j + b_i,   a = W1 x,   b = (W2 - W1) x

so the convolution is computed for R points instead of R K edges. BatchNorm is
increasing in y where its weight is positive and decreasing where it is negative, and
LeakyReLU is increasing. The maximum over the neighbours therefore needs one edge for
every point and channel:

    max_j act(BN(y_ij)) = act(BN(b_i + max_j a_j))     (min_j for a negative weight)

BatchNorm's statistics over all edges need the sums of y and y², which are accumulated
around a shift. In the backward pass the argmax gets the gradient of its point. The
gradient through mean and variance gives every edge alpha y + beta; summed over the
edges that end at a point, this needs its in-degree and one sum over the reverse
adjacency. Of equal edges the nearest neighbour gets the gradient, also where the weight
is 0. In eval mode without gradients BatchNorm's scale is multiplied into a and b.

**Two layers on edges** (part segmentation). Edges of the second layer are computed in
blocks, each reduced to its argmax and sums, and are recomputed in the backward pass.

**Pooling** after the last convolution is treated in the same way.

**Duplicate points.** The dropout augmentation replaces random points by copies of the
cloud's first point. Copies stay equal through every layer, so they are merged into one
point with a count, which weights neighbour lists, BatchNorm's sums and the mean.

Read ``clouds.py`` (what the encoders call), ``batch.py`` (ragged batches and graphs)
and ``functions.py`` (autograd). The kernels have the same names and arguments in
``numba/`` (CPU) and ``triton/`` (GPU). This package imports :mod:`models.knn` and
:mod:`utils.parallel` alone; :mod:`models.edgeconv`, which chooses between the plain and
the fused form, imports it.
"""
