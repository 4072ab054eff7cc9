"""Figures of runs, clouds and features, for the report, the notebook and W&B.

Every figure is a plain matplotlib ``Figure``: nothing is shown, and only the functions
whose names say so write files. Files in reading order:

    curves.py         losses and accuracies of runs, from their metrics.jsonl
    clouds.py         a grid of clouds and images
    features.py       t-SNE maps, confusion matrices, nearest neighbours
    parts.py          clouds coloured by part: PLY files and a contact sheet
    page.py           a self-contained HTML page
    wandb_images.py   what W&B shows of an epoch

May import ``utils.judging``, ``utils.parallel`` and ``utils.run``. Data come in as
arrays: neither ``datasets`` nor ``models`` is imported.
"""
