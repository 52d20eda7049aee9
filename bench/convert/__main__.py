"""`python -m bench.convert`."""

from bench.convert.cli import main

if __name__ == "__main__":
    main()
