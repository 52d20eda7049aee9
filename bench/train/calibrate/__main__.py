"""`python -m bench.train.calibrate`."""

from bench.train.calibrate.cli import main

if __name__ == "__main__":
    main()
