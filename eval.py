"""Ask a policy for returns and report what it earns: `python eval.py ...` is `seqdec eval ...`."""

import sys

from seqdec.__main__ import run

if __name__ == "__main__":
    run(["eval", *sys.argv[1:]])
