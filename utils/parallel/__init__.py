"""What makes results independent of the number of processes.

``distributed``: the process group, gathering, DDP. ``batchnorm``: BatchNorm over the
global batch. ``seed``: randomness as a function of (seed, epoch, sample). ``machine``:
cores, and reuse of freed memory on the CPU. Imports ``utils.errors`` alone.
"""
