"""`python -m bench.train.exits`."""

from bench.train.exits.cli import main

if __name__ == "__main__":
    main()
