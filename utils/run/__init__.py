"""A run: from the command line to the files that it leaves.

``training``: what the training loops use, and :class:`~utils.run.training.Run`, which
keeps their books. ``cli``, ``flags``: command line, errors, exit status.
``run_folder``, ``checkpoint``, ``logger``, ``wandb_run``: the files. ``signals``:
Ctrl-C and SIGTERM. Imports ``utils.parallel``.
"""
