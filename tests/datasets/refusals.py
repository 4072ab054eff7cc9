"""What the tests of the readers share: the check of an error's text."""

from collections.abc import Callable

import pytest

from datasets.files import DataError


def refused(call: Callable[[], object], *texts: object, only: str = "") -> None:
    """A call ends in a `DataError` with these texts and the remedy, `--only NAME`."""
    with pytest.raises(DataError) as error:
        call()
    remedy = "bash data/download_data.sh" + (f" --only {only}" if only else "")
    remedies = f"`{remedy}`", "`--data_root data/synthetic`"
    for text in (*texts, *remedies):
        assert str(text) in str(error.value), error.value
