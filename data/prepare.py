"""Make data sets: python data/prepare.py SOURCE ... | record ENV_ID | show PATH (= seqdec data ...)."""

import sys

from seqdec.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", *sys.argv[1:]]))
