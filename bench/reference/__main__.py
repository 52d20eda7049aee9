"""`python -m bench.reference`."""

import sys

from bench.reference.comparison import main

if __name__ == "__main__":
    sys.exit(main())
