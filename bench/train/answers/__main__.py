"""`python -m bench.train.answers`."""

from bench.train.answers.cli import main

if __name__ == "__main__":
    main()
