"""Entry point of ``python -m bench.tune``."""

from bench.tune.cli import main

if __name__ == "__main__":
    main()
