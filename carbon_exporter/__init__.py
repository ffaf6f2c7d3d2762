"""Energy and CO2eq of training jobs as Prometheus metrics. Importing this package imports nothing else."""

from typing import Final

__version__: Final = "0.1.0"
