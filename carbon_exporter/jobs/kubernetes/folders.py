"""Finds the control groups of pods below the kubelet's: kubepods, with cgroupfs or systemd names, v1 or v2.

With cgroupfs a pod has kubepods/podUID, kubepods/burstable/podUID or kubepods/besteffort/podUID, by its class of
service; with systemd kubepods.slice/kubepods-podUID.slice, or
kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice, with "_" for "-" in the UID.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from carbon_exporter.cgroups import unit_of

_DEPTH: Final = 3
_AGAIN_SECONDS: Final = 60.0
_LOWER_CLASSES: Final = ("-burstable.slice", "-besteffort.slice")
_NEVER: Final = float("-inf")


class PodFolders:
    """The folders of pods under `root`, one hierarchy of control groups.

    Attributes:
        of: the folder of each unit, relative to `root`, as last looked at.
        first_seen: when each unit's folder was first there; -inf where it may have been there long before.
    """

    def __init__(self, root: Path) -> None:
        self.of: dict[str, str] = {}
        self.first_seen: dict[str, float] = {}
        self._root = str(root)
        self._tops: list[str] = []
        self._searched_seconds = _NEVER
        self._gapless = False
        self._listed: list[tuple[str, list[str]]] = []

    def refresh(self, now_seconds: float) -> str:
        """Look again; what is wrong, in one line, or "".

        A few folders are listed each time. Where the kubelet's are is searched for only while none is known.
        """
        if not self._tops and now_seconds - self._searched_seconds >= _AGAIN_SECONDS:
            self._searched_seconds = now_seconds
            self._tops = list(_search(self._root))
        try:
            listed = [pair for top in self._tops for pair in _list(self._root, top)]
            # Most often nothing has changed, and looking for the units in hundreds of names is half of the cost.
            found = self.of if listed == self._listed else dict(_units_in(listed))
            self._listed = listed
        except FileNotFoundError:
            self._tops, self._searched_seconds, self._listed, found = [], _NEVER, [], {}
        except OSError as error:
            self._gapless = False
            return f"{error.filename}: {error.strerror}; CPU time of new pods is not counted"
        self._note(found, now_seconds)
        self._gapless = bool(self._tops)
        if self._tops:
            return ""
        return f"{self._root} has no kubepods: mount the host's /sys/fs/cgroup there; CPU time of pods is not counted"

    def _note(self, found: dict[str, str], now_seconds: float) -> None:
        """Remember when each came; after a gap in looking nobody knows."""
        came = now_seconds if self._gapless else _NEVER
        before = self.first_seen
        self.of = found
        self.first_seen = {unit: before.get(unit, came) for unit in found}

    def restore(self, units: list[str]) -> None:
        """These were there when an earlier process last looked: whatever comes now is new."""
        self.first_seen = dict.fromkeys(units, _NEVER)
        self._gapless = True


def _search(root: str, folder: str = "", depth: int = 1) -> list[str]:
    """The kubelet's folders, relative to `root`: its own root may lie some levels down, as kubelet.slice does."""
    tops = []
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    for name in names:
        path = f"{folder}/{name}" if folder else name
        if name in ("kubepods", "kubepods.slice") or name.endswith("-kubepods.slice"):
            tops.append(path)
        elif depth < _DEPTH:
            tops += _search(root, path, depth + 1)
    return tops


def _list(root: str, top: str) -> list[tuple[str, list[str]]]:
    """What is directly in `top`, and in its folders for the two lower classes of service."""
    names = os.listdir(f"{root}/{top}")  # noqa: PTH208 - the names alone, at every tick
    classes = (n for n in names if n in ("burstable", "besteffort") or n.endswith(_LOWER_CLASSES))
    return [(top, names), *((f"{top}/{name}", os.listdir(f"{root}/{top}/{name}")) for name in classes)]  # noqa: PTH208


def _units_in(listed: list[tuple[str, list[str]]]) -> Iterator[tuple[str, str]]:
    """The units among the names, with their folders."""
    for folder, names in listed:
        for name in names:
            if "pod" in name and (unit := unit_of(name)):
                yield unit, f"{folder}/{name}"
