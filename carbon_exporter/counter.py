"""A cumulative total out of a raw counter that wraps, resets, vanishes and comes back."""

from dataclasses import dataclass

from carbon_exporter.model import Json


@dataclass(slots=True)
class Counter:
    """Adds up the rises of a raw counter; the total never goes back.

    The total starts at 0 with the first reading. All three fields together are the state a restart needs.
    """

    raw: float | None = None
    total: float = 0.0
    seconds: float = 0.0

    def advance(
        self, raw: float, seconds: float, *, wraps_at: float | None = None, fastest: float | None = None
    ) -> bool:
        """Take the reading `raw` made at `seconds` (monotonic); False where the rise since the last is unknown.

        A counter that went back has wrapped at `wraps_at`, the value after which it starts again from 0, or, without
        one, was reset. A rise of more than `fastest` per second was no rise but a reset or a slip. After either,
        nothing is added for the interval and counting goes on from here.
        """
        elapsed = max(0.0, seconds - self.seconds)
        last, self.raw, self.seconds = self.raw, raw, seconds
        if last is None:
            return True
        rise = raw - last
        if rise < 0:
            if wraps_at is None or last > wraps_at:
                return False
            rise += wraps_at
        if fastest is not None and rise > fastest * max(elapsed, 1.0):
            return False
        self.total += rise
        return True

    def to_json(self) -> Json:
        """The state for `from_json`."""
        return {"raw": self.raw, "total": self.total, "seconds": self.seconds}

    @classmethod
    def from_json(cls, state: Json) -> "Counter":
        """The counter that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: the state is not one.
        """
        raw = state["raw"]
        return cls(None if raw is None else float(raw), float(state["total"]), float(state["seconds"]))
