"""`python -m carbon_exporter` is the command carbon-exporter."""

import sys

from carbon_exporter.cli import main

if __name__ == "__main__":
    sys.exit(main())
