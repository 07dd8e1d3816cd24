"""`python -m seqdec` is the command `seqdec`."""

import sys

from seqdec.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
