"""`python -m bench.reference`."""

import sys

from bench.show.waiting import announce

if __name__ == "__main__":
    announce("loading torch and transformers; our decoding and theirs come next")
    from bench.reference.comparison import main

    sys.exit(main())
