"""What a device draws while nobody uses it: configured, or learned from the quiet times of this very device. Pure."""

from collections.abc import Mapping
from typing import Final

from carbon_exporter.model import Component, Json

SUSTAINED_SECONDS: Final = 30.0
"""Power that lasted for so long is no slip of a counter and no pause between two kernels."""


class IdlePower:
    """Idle power of every device.

    Learned is the lowest mean power over any 30 s in which nobody used the device. A clock that changes its idle
    power later (another driver, a power limit) only ever brings it down.

    Args:
        configured: watts of each device of a component; nothing is learned for these.
    """

    def __init__(self, configured: Mapping[Component, float]) -> None:
        self._configured = dict(configured)
        self._learned: dict[str, float] = {}
        self._quiet: dict[str, tuple[float, float]] = {}

    def watts(self, device: str, component: Component) -> float | None:
        """Of one device; None where it is not known yet."""
        return self._configured.get(component, self._learned.get(device))

    def ratio(self, device: str, component: Component, joules: float, seconds: float) -> float | None:
        """Idle energy of `joules` used in `seconds`, 0 to 1; None where the idle power is not known yet."""
        watts = self.watts(device, component)
        if watts is None or joules <= 0:
            return None
        return min(1.0, watts * seconds / joules)

    def watch(self, device: str, joules: float, seconds: float, *, unused: bool) -> None:
        """Learn from one interval. One without any energy was no quiet time but a counter that stood still."""
        if not unused or joules <= 0 or seconds <= 0:
            self._quiet.pop(device, None)
            return
        quiet_joules, quiet_seconds = self._quiet.get(device, (0.0, 0.0))
        quiet_joules, quiet_seconds = quiet_joules + joules, quiet_seconds + seconds
        if quiet_seconds >= SUSTAINED_SECONDS:
            watts = quiet_joules / quiet_seconds
            self._learned[device] = min(watts, self._learned.get(device, watts))
            quiet_joules = quiet_seconds = 0.0
        self._quiet[device] = (quiet_joules, quiet_seconds)

    def state(self) -> Json:
        """What was learned."""
        return dict(self._learned)

    def restore(self, learned: Mapping[str, float]) -> None:
        """Take up what was learned before."""
        self._learned = dict(learned)
