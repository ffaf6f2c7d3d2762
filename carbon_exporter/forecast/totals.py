"""What a job has used on all nodes that it has been on: its counters added up, whatever becomes of a node. Pure.

A sum over the series of the moment falls when a node goes, and counts a node twice where its exporter comes back
under another address. So each node's counters are followed on their own, and what a node that is gone told stays.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias

JOULES: Final = "joules"
Counters: TypeAlias = Mapping[str, float]
"""Of a job on one node, in total: its joules under JOULES, its grams of each basis under the name of that."""
MIXED: Final = "mixed"
"""The basis of a sum of grams of several bases, as alerts/recording.yaml has it."""
_MOST_NODES: Final = 1000
_RESET_SHARE: Final = 0.5
_COME_BACK_SECONDS: Final = 180.0
"""Longer than any scrape leaves a node that is there without a rise."""


def basis_of(grams: Mapping[str, float]) -> str:
    """The one basis of which there are grams, any where there are none yet, "" where nothing is told."""
    counted = [basis for basis, amount in grams.items() if amount > 0]
    return MIXED if len(counted) > 1 else next(iter(counted or grams), "")


@dataclass(slots=True)
class _Node:
    """One address; times in Unix seconds.

    Attributes:
        last: its counters as they were last read.
        appeared_seconds: when it came, or came back.
        rose_seconds: when its joules had last risen.
        first_joules: as it came.
        before: what its counters had counted before they were set back.
    """

    last: Counters
    appeared_seconds: float
    rose_seconds: float
    first_joules: float
    before: dict[str, float] = field(default_factory=dict)

    def take(self, counters: Counters, now_seconds: float) -> bool:
        """Count on; whether the joules were set back."""
        for name, last in self.last.items():
            now = counters.get(name, 0.0)
            if now < last:
                # A counter that begins again begins at 0; one that has lost a part goes on from what is left.
                lost = last if now < last * _RESET_SHARE else last - now
                self.before[name] = self.before.get(name, 0.0) + lost
        rise = counters.get(JOULES, 0.0) - self.last.get(JOULES, 0.0)
        self.last = counters
        self.rose_seconds = now_seconds if rise else self.rose_seconds
        return rise < 0

    def counted(self, name: str) -> float:
        """What a counter has counted since the job was first seen on the node."""
        return self.last.get(name, 0.0) + self.before.get(name, 0.0)


class Totals:
    """The counters of one run of a job, added up over its nodes; they never fall.

    A node that appears with at least the joules of one that stands still from then on is taken for the same, under
    another address (a pod that was restarted). Where a job has moved instead, this leaves out what it had used on the
    other before, which is less than what it has used since.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._replaces: dict[str, str] = {}
        """Address -> the one whose counters it goes on with."""

    def take(self, readings: Mapping[str, Counters], now_seconds: float) -> bool:
        """Take what each node tells at one moment (node -> its counters); whether a node's joules were set back."""
        was_set_back = False
        unmatched = []
        successors = {old: new for new, old in self._replaces.items()}
        for name in sorted(readings):
            counters, node = readings[name], self._nodes.get(name)
            if node is None:
                self._nodes[name] = _Node(counters, now_seconds, now_seconds, counters.get(JOULES, 0.0))
                unmatched.append(name)
                continue
            stood_still_seconds = now_seconds - node.rose_seconds
            was_set_back |= node.take(counters, now_seconds)
            if name in successors and node.rose_seconds == now_seconds:
                # It counts on: either it was another node all the time, or it is the same one and has come back.
                self._replaces.pop(successors[name], None)
                if stood_still_seconds >= _COME_BACK_SECONDS:
                    node.appeared_seconds, node.first_joules = now_seconds, node.counted(JOULES)
                    unmatched.append(name)
                else:
                    unmatched.append(successors[name])
        for name in unmatched:
            self._match(name)
        self._forget(readings)
        return was_set_back

    @property
    def joules(self) -> float | None:
        """In total; None before any node has told."""
        nodes = self._counting()
        return sum(node.counted(JOULES) for node in nodes) if nodes else None

    @property
    def grams(self) -> dict[str, float]:
        """In total, by basis."""
        grams: dict[str, float] = {}
        for node in self._counting():
            for basis in (node.last.keys() | node.before.keys()) - {JOULES}:
                grams[basis] = grams.get(basis, 0.0) + node.counted(basis)
        return grams

    @property
    def nodes(self) -> int:
        """How many addresses it has been on."""
        return len(self._nodes)

    def reckon_grams(self) -> None:
        """Give nodes that have told joules only the grams that as many joules have cost on the others."""
        silent = [node for node in self._counting() if not node.last.keys() - {JOULES}]
        joules = (self.joules or 0.0) - sum(node.counted(JOULES) for node in silent)
        if joules > 0:
            for node in silent:
                node.before |= {basis: node.counted(JOULES) * grams / joules for basis, grams in self.grams.items()}

    def state(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"nodes": {name: asdict(node) for name, node in self._nodes.items()}, "replaces": self._replaces}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Totals":
        """What `state` was made of."""
        totals = cls()
        totals._nodes = {name: _Node(**node) for name, node in state["nodes"].items()}
        totals._replaces = dict(state["replaces"])
        return totals

    def _counting(self) -> list[_Node]:
        if not self._replaces:
            return list(self._nodes.values())
        replaced = set(self._replaces.values())
        return [node for name, node in self._nodes.items() if name not in replaced]

    def _match(self, name: str) -> None:
        """Find whose counters an address goes on with: which of several nodes stands still is only seen later."""
        node, replaced = self._nodes[name], set(self._replaces.values())
        older = [
            (other.counted(JOULES), earlier)
            for earlier, other in self._nodes.items()
            if earlier not in replaced
            and other.appeared_seconds < node.appeared_seconds
            and other.rose_seconds <= node.appeared_seconds
            and 0 < other.counted(JOULES) <= node.first_joules
        ]
        if older:
            self._replaces[name] = max(older)[1]

    def _forget(self, readings: Mapping[str, Counters]) -> None:
        """Addresses that were replaced and are gone, where there are very many."""
        if len(self._nodes) > _MOST_NODES:
            for name in set(self._replaces.values()) - readings.keys():
                del self._nodes[name]
            self._replaces = {new: old for new, old in self._replaces.items() if {new, old} <= self._nodes.keys()}
