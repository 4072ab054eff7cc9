"""What the tests of the readers share: the check of an error's text."""

import os

import pytest

from datasets.files import DataError

CURE = "bash data/download_data.sh --only shapenet`"


def refused(read, path, *texts, cure=CURE, **kwargs):
    """The error that reading ends in names the file, the problem and the cure."""
    with pytest.raises(DataError) as error:
        read(path, **kwargs)
    message = str(error.value)
    for text in (str(path), cure, *texts):
        assert text in message, message
    return message


def open_files():
    return set(os.listdir("/proc/self/fd"))
