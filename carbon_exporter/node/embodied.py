"""What it took to make the hardware, shared out by the time that jobs hold it: M of ISO/IEC 21031. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Part = Literal["gpu", "host"]
PARTS: Final[tuple[Part, ...]] = ("gpu", "host")
SECONDS_PER_YEAR: Final = 365.25 * 86_400


@dataclass(frozen=True, slots=True)
class Embodied:
    """Grams for every second of use: of each GPU, and of the host without its GPUs; 0 where it is not counted."""

    gpu_grams_per_second: float = 0.0
    host_grams_per_second: float = 0.0

    @property
    def counted(self) -> tuple[Part, ...]:
        """The parts that are counted at all."""
        rates = {"gpu": self.gpu_grams_per_second, "host": self.host_grams_per_second}
        return tuple(part for part in PARTS if rates[part] > 0)


NOT_COUNTED: Final = Embodied()


def grams_per_second(kilograms: float, years: float) -> float:
    """What a second costs of hardware that took `kilograms` to make and serves for `years`."""
    return 1000 * kilograms / (years * SECONDS_PER_YEAR)


def host_shares(
    of_gpus: Mapping[str, float], of_cpus: Mapping[str, float], of_cpu_time: Mapping[str, float]
) -> Mapping[str, float]:
    """The share of the host of each job: that of its GPUs where it has any, else of its CPUs, else of its CPU time.

    All three are of all there is on the host, by job. The shares add up to 1 at most; the rest is nobody's.
    """
    shares = {**of_cpu_time, **_positive(of_cpus), **_positive(of_gpus)}
    whole = max(1.0, sum(shares.values()))
    return {name: share / whole for name, share in shares.items()}


def _positive(shares: Mapping[str, float]) -> Mapping[str, float]:
    return {name: share for name, share in shares.items() if share > 0}
