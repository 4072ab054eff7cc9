"""Figures of runs, clouds and features, for the report, the notebook and W&B.

A figure is a plain matplotlib ``Figure``, not shown or written. In reading order:

    curves.py         losses and accuracies of runs, from their metrics.jsonl
    clouds.py         grids of clouds and images; clouds coloured by part: PLY files
    features.py       t-SNE maps, confusion matrices, nearest neighbours
    page.py           a self-contained HTML page
    wandb_images.py   what W&B shows of an epoch

Data come in as arrays: neither ``datasets`` nor ``models`` is imported.
"""
