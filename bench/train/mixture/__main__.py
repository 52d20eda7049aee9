"""`python -m bench.train.mixture`."""

from bench.train.mixture.cli import main

if __name__ == "__main__":
    main()
