"""``python -m datasets.synthetic``."""

from datasets.synthetic import main

if __name__ == "__main__":
    main()
