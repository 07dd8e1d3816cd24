"""Make data sets: python data/prepare.py SOURCE ... | record ENV_ID | show PATH (= seqdec data ...)."""

import sys

from seqdec.__main__ import run

if __name__ == "__main__":
    run(["data", *sys.argv[1:]])
