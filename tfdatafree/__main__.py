"""`python -m tfdatafree`."""

import sys

from tfdatafree.cli import main

if __name__ == "__main__":
    sys.exit(main())
