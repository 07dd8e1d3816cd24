"""Ask a policy for returns and report what it earns: `python eval.py ...` is `seqdec eval ...`."""

import sys

from seqdec.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
