"""``python -m datasets.verify``: check every file of a data folder."""

from datasets.prepare.verify import get_args_parser, main

__all__ = ["get_args_parser", "main"]

if __name__ == "__main__":
    main()
