"""Figures of runs, clouds and features, for the report, the notebook and W&B.

Every figure is a plain matplotlib ``Figure``: nothing is shown, and nothing is written
but by the functions whose names say so. Files in reading order:

    curves.py         losses and accuracies of runs, from their metrics.jsonl
    clouds.py         one cloud on axes; training shapes with their views
    parts.py          clouds coloured by part: PLY files and a contact sheet
    neighbours.py     clouds with similar features
    maps.py           t-SNE maps of features
    confusion.py      confusion matrices
    page.py           an HTML page that holds its images
    wandb_images.py   what W&B shows of an epoch

May import ``utils.judging``, ``utils.parallel`` and ``utils.run``. Data come in as
arrays: neither ``datasets`` nor ``models`` is imported.
"""
