"""`python -m bench.train.skip_set`."""

from bench.train.skip_set.cli import main

if __name__ == "__main__":
    main()
