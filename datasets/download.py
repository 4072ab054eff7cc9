"""``python -m datasets.download``: fetch the data sets."""

from datasets.prepare.download import get_args_parser, main

__all__ = ["get_args_parser", "main"]

if __name__ == "__main__":
    main()
