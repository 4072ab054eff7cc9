"""``python -m datasets.from_meshes``: a data set from a folder of meshes."""

from datasets.prepare.from_meshes import get_args_parser, main

__all__ = ["get_args_parser", "main"]

if __name__ == "__main__":
    main()
