"""``python -m cloudctl.cli``."""

import sys

from cloudctl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
