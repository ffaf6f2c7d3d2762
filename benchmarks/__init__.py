"""Measurements of the real programs, on the moving hardware of the tests: `make bench`, `python -m benchmarks.node`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # powercap, nvml_shim
