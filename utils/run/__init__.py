"""A run: from the command line to the files that it writes.

``cli``, ``flags``: command line, errors, exit status. ``training``: parts of a training
loop. ``bookkeeping``: its records and checkpoints. ``run_folder``,
``checkpoint``, ``network``, ``logger``, ``wandb_run``: the files. ``signals``: Ctrl-C
and SIGTERM. Imports ``utils.parallel``.
"""
