"""`python -m bench.prove`."""

from bench.prove.cli import main

if __name__ == "__main__":
    main()
