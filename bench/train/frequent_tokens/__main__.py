"""`python -m bench.train.frequent_tokens`."""

from bench.train.frequent_tokens.cli import main

if __name__ == "__main__":
    main()
