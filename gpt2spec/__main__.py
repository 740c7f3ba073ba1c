"""`python -m gpt2spec` runs the command line."""

import sys

from gpt2spec.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
