"""`python -m bench.routing`."""

from bench.routing.cli import main

if __name__ == "__main__":
    main()
