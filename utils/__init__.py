"""What the scripts share, in layers: each imports only those before it.

``errors``: errors written for the user. ``parallel``: processes, BatchNorm over ranks,
seeds. ``run``: command line, run folder, checkpoints, records. ``judging``: evaluating
features and predictions. ``drawing``: figures. None imports ``models``, and of
``datasets`` only ``judging`` takes the table of parts.
"""
