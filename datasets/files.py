"""The three file formats of the data sets, read strictly: PLY, PNG and HDF5."""

from __future__ import annotations


class DataError(Exception):
    """A data file or folder is missing or damaged; the message names it and the cure."""
