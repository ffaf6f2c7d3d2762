"""What a job has used on all nodes that it has been on: its counters added up, whatever becomes of a node. Pure.

A sum over the series of the moment falls when a node goes, and counts a node twice where its exporter comes back
under another address. So each node's counters are followed on their own, and what a node that is gone told stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

JOULES: Final = "joules"
Counters: TypeAlias = Mapping[str, float]
"""Of a job on one node, in total: its joules under JOULES, its grams of each basis under the name of that."""
MIXED: Final = "mixed"
"""The basis of a sum of grams of several bases, as alerts/recording.yaml has it."""
_MOST_NODES: Final = 1000


def basis_of(grams: Mapping[str, float]) -> str:
    """The one basis of which there are grams, any where there are none yet, "" where nothing is told."""
    counted = [basis for basis, amount in grams.items() if amount > 0]
    return MIXED if len(counted) > 1 else next(iter(counted or grams), "")


@dataclass(slots=True)
class _Node:
    """One address.

    Attributes:
        last: its counters as they were last read.
        before: what they had counted before they were set back, or left out.
        has_successor: another address seems to go on with its counters, so that only that one is added.
    """

    last: Counters
    before: dict[str, float] = field(default_factory=dict)
    has_successor: bool = False

    def take(self, counters: Counters) -> bool:
        """Count on; whether the joules were set back."""
        for name, last in self.last.items():
            fallen = last - counters.get(name, 0.0)
            if fallen > 0:
                self.before[name] = self.before.get(name, 0.0) + fallen
        rise = counters.get(JOULES, 0.0) - self.last.get(JOULES, 0.0)
        self.has_successor = self.has_successor and rise <= 0
        self.last = counters
        return rise < 0

    def counted(self, name: str) -> float:
        """What a counter has counted; one that is set back counts on from there."""
        return self.last.get(name, 0.0) + self.before.get(name, 0.0)


class Totals:
    """The counters of one run of a job, added up over its nodes; they never fall.

    A node that appears with at least the joules of one that stands still is taken for the same, under another address
    (a pod that was restarted), until the other counts on. Where a job has moved instead, this leaves out what it had
    used before, which is less than what it has used since.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def take(self, readings: Mapping[str, Counters]) -> bool:
        """Take what each node tells at one moment (node -> its counters); whether a node's joules were set back."""
        was_set_back = False
        for name, counters in readings.items():
            if name in self._nodes:
                was_set_back |= self._nodes[name].take(counters)
        older = list(self._nodes.values())
        for name in sorted(readings.keys() - self._nodes.keys()):
            self._add(name, readings[name], older)
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
        return {name: [node.last, node.before, node.has_successor] for name, node in self._nodes.items()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Totals":
        """What `state` was made of."""
        totals = cls()
        totals._nodes = {name: _Node(*values) for name, values in state.items()}
        return totals

    def _counting(self) -> list[_Node]:
        return [node for node in self._nodes.values() if not node.has_successor]

    def _add(self, name: str, counters: Counters, older: Sequence[_Node]) -> None:
        told = counters.get(JOULES, 0.0)
        before = [node for node in older if not node.has_successor and 0 < node.counted(JOULES) <= told]
        if before:
            max(before, key=lambda node: node.counted(JOULES)).has_successor = True
        if len(self._nodes) >= _MOST_NODES:
            gone = next((other for other, node in self._nodes.items() if node.has_successor), None)
            if gone is not None:
                del self._nodes[gone]
        self._nodes[name] = _Node(counters)
