"""A run: from the command line to the files that it leaves.

``cli``, ``flags``: command line, errors, exit status. ``training``: what a training
loop is made of. ``bookkeeping``: its records and checkpoints. ``run_folder``,
``checkpoint``, ``network``, ``logger``, ``wandb_run``: the files. ``signals``: Ctrl-C
and SIGTERM. Imports ``utils.parallel``.
"""
