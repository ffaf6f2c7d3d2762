"""Shares joules out to jobs. Pure: cumulative readings in, cumulative accounts out; no clock, no file.

For every device, between two readings of it:

    energy = active + idle;  active goes to jobs by use, and to "system" what no job used;
    idle goes to whoever holds the device, and to "idle" what nobody holds;
    so that, per component, jobs + idle + system = measured.

Idle is the idle power, configured or learned (idle.py), times the time. Before it is known, the idle part of a CPU or
of memory is the host's idle share of the energy, and that of a GPU none. Each device remembers the CPU times at its
own last reading, so a device that could not be read for a while is shared by the CPU time of that while.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final, Literal, get_args

from carbon_exporter.model import COMPONENTS, Component, DeviceReading, HostCpu, JobUse, Json
from carbon_exporter.node.accounts import (
    Account,
    Device,
    Piece,
    amount,
    amounts,
    uses_from_json,
    uses_to_json,
)
from carbon_exporter.node.embodied import host_shares
from carbon_exporter.node.gpu_shares import Interval, Split, sm_weights, split
from carbon_exporter.node.grams import Grams
from carbon_exporter.node.holders import SYSTEM, Holdings, find_holdings
from carbon_exporter.node.idle import IdlePower
from carbon_exporter.node.recount import Factors
from carbon_exporter.node.shares import Allocations, Uses, allocations, cpu_shares

Reason = Literal["idle", "system"]
_HOST: Final = "host"
_QUIET_RATIO: Final = 0.02
"""Of the host's CPU time: less is housekeeping, and nobody used the CPU."""


@dataclass(frozen=True, slots=True)
class _Now:
    """What one posting knows besides the devices, and what it gathers from one to the next.

    `spent`: joules by job, of each component and since one moment; `gpu_shares`: of all GPUs of the host, by job.
    """

    seconds: float
    uses: Uses
    shares_since: Callable[[Uses], tuple[Mapping[str, float], float]]
    allocated_since: Callable[[float], Allocations]
    holdings: Holdings
    job_of: Mapping[int, str]
    spent: dict[tuple[Component, float], dict[str, float]]
    gpu_shares: dict[str, float]


class Ledger:
    """The accounts of one node.

    Args:
        linger_seconds: how long the account of an ended job stays.
        idle_watts: configured idle power of each device of a component; what is not in it is learned.
        grams: what joules and hardware cost; None: joules by the grid's intensity alone.
    """

    def __init__(
        self,
        linger_seconds: float,
        idle_watts: Mapping[Component, float] = MappingProxyType({}),
        grams: Grams | None = None,
    ) -> None:
        self._linger_seconds = linger_seconds
        self.grams = grams if grams is not None else Grams()
        self.accounts: dict[str, Account] = {}
        self.measured_joules: dict[Component, float] = {}
        self.unattributed_joules: dict[tuple[Component, Reason], float] = {}
        self.equally_shared_joules: dict[Component, float] = {}
        self.idle_power = IdlePower(idle_watts)
        self._pieces: dict[str, Piece] = {}
        self._devices: dict[str, Device] = {}
        self._job_of_pid: Mapping[int, str] = {}
        self._gpu_names: dict[str, frozenset[str]] = {}

    def post(
        self,
        devices: Sequence[DeviceReading],
        jobs: Sequence[JobUse],
        host: HostCpu,
        now_seconds: float,
        factors: Factors,
    ) -> tuple[str, ...]:
        """Share what the devices measured since they were last posted; the failures, one line each.

        Args:
            devices: the devices that could be read now.
            jobs: the pieces of jobs alive now; one absent has ended.
            host: CPU time of the whole host now.
            now_seconds: the time of all three, on a clock that never goes back.
            factors: what a joule costs, as far as it is known now; the same object as long as nothing changed.
        """
        self._take_use(jobs, now_seconds)
        self._forget(now_seconds)  # first, or a job that returns later would be measured by its old CPU time
        uses = Uses({name: account.cpu_seconds for name, account in self.accounts.items()}, host)
        holdings = find_holdings([device for device in devices if device.gpu is not None], jobs)
        now = _Now(
            seconds=now_seconds,
            uses=uses,
            shares_since=cache(lambda last: cpu_shares(last, uses)),  # most devices were last read together
            allocated_since=cache(lambda begin: allocations(jobs, host, begin, now_seconds)),
            holdings=holdings,
            # A process that ended since the last reading still has its share of the interval.
            job_of={**self._job_of_pid, **holdings.job_of},
            spent=defaultdict(lambda: defaultdict(float)),
            gpu_shares=defaultdict(float),
        )
        self.grams.begin(factors, self.accounts, now_seconds)
        self._job_of_pid = holdings.job_of
        self._gpu_names.update(holdings.names)
        for device in devices:
            if device.component is not None:
                self._share(device, device.component, now)
        for (component, begin), spent in now.spent.items():
            self.grams.count(self.accounts, component, spent, begin, now_seconds)
        self._share_host(now)
        self._count_gpus(devices, holdings)
        known = frozenset().union(*self._gpu_names.values()) if holdings.unknown else frozenset()
        return tuple(
            f"{name}: given to {job or 'a pod without a job'}, but NVML sees no such GPU: let the exporter see all GPUs"
            for name, job in sorted(holdings.unknown)
            if name not in known  # a GPU that cannot be read just now is a failure of its source
        )

    def _take_use(self, jobs: Sequence[JobUse], now_seconds: float) -> None:
        """Open accounts for new jobs, and add the CPU time that each piece used since it was last seen."""
        for use in reversed(jobs):
            if not use.training_job:
                continue
            account = self.accounts.get(use.training_job)
            if account is None:
                account = self.accounts[use.training_job] = Account(use, now_seconds)
            piece = self._pieces.get(use.unit)
            if piece is None:
                self._pieces[use.unit] = Piece(use, now_seconds)
                account.cpu_seconds += use.cpu_seconds
            elif use is not piece.use:
                account.cpu_seconds += _rise(use.cpu_seconds, piece.use.cpu_seconds)
                piece.use = use
            self._pieces[use.unit].seen_seconds = now_seconds
            account.use = use
            account.last_seen_seconds = now_seconds

    def _share(self, device: DeviceReading, component: Component, now: _Now) -> None:
        last = self._devices.get(device.device)
        parts = now.holdings.parts.get(device.device, ())
        holders = {part.uuid: part.holders for part in parts}
        self._devices[device.device] = Device(device.energy_joules, now.seconds, now.uses, holders)
        joules = _rise(device.energy_joules, last.energy_joules) if last is not None else 0.0
        self._add_measured(component, joules)
        if last is None:
            return
        if component == "gpu":
            result = self._split_gpu(device, joules, last, now)
        else:
            result = self._split_by_cpu(device, component, joules, last, now)
        to_jobs, spent = 0.0, now.spent[component, last.seconds]
        for name, ratio in result.holders.items():
            if name in self.accounts:
                part_joules = joules * ratio
                to_jobs += part_joules
                spent[name] += part_joules
        idle_joules = min(joules * result.idle, max(0.0, joules - to_jobs))
        self.unattributed_joules[component, "idle"] += idle_joules
        self.unattributed_joules[component, "system"] += max(0.0, joules - to_jobs - idle_joules)
        if component == "gpu":
            self.equally_shared_joules["gpu"] += joules * result.equally

    def _split_by_cpu(
        self, device: DeviceReading, component: Component, joules: float, last: Device, now: _Now
    ) -> Split:
        """CPU and memory: the active part by CPU time, the idle part by allocation."""
        shares, busy_ratio = now.shares_since(last.uses)
        if not device.includes_idle:
            return Split(dict(shares))
        seconds = now.seconds - last.seconds
        self.idle_power.watch(device.device, joules, seconds, unused=busy_ratio < _QUIET_RATIO)
        idle_ratio = self.idle_power.ratio(device.device, component, joules, seconds)
        if idle_ratio is None:
            idle_ratio = 1 - busy_ratio
        result = Split()
        for name, share in shares.items():
            result.holders[name] += share * (1 - idle_ratio)
        allocations_since = now.allocated_since(last.seconds)
        allocated = allocations_since.memory if component == "dram" else allocations_since.cpus
        for name, share in allocated.items():
            result.holders[name] += share * idle_ratio
        result.idle = idle_ratio * max(0.0, 1 - sum(allocated.values()))
        return result

    def _split_gpu(self, device: DeviceReading, joules: float, last: Device, now: _Now) -> Split:
        parts = now.holdings.parts[device.device]
        gpu = device.gpu
        held = any(part.holders or part.in_use or last.holders.get(part.uuid) for part in parts)
        unused = not held or (gpu is not None and gpu.utilization_ratio == 0.0)
        seconds = now.seconds - last.seconds
        self.idle_power.watch(device.device, joules, seconds, unused=unused)
        given_to = parts[0].holders if device.device in now.holdings.given else frozenset()
        weights = sm_weights(gpu.sm_share_by_pid if gpu else {}, now.job_of, given_to)
        idle_ratio = self.idle_power.ratio(device.device, "gpu", joules, seconds) or 0.0
        interval = Interval(last.holders, last.seconds, now.seconds, now.holdings.started_seconds)
        if self.grams.embodied.counted:
            holders = split(parts, 1.0, weights, interval).holders  # all of it idle: that goes to whoever holds it
            self.grams.count_gpu(self.accounts, holders, seconds)
            for name in holders.keys() & self.accounts.keys():
                now.gpu_shares[name] += holders[name] / len(self._gpu_names)
        return split(parts, idle_ratio, weights, interval)

    def _share_host(self, now: _Now) -> None:
        """Share the host itself, which is kept as a device without joules, for what it took to make it."""
        last = self._devices.get(_HOST)
        self._devices[_HOST] = Device(0.0, now.seconds, now.uses)
        if last is None or not self.grams.embodied.host_grams_per_second:
            return
        cpu_time, busy_ratio = now.shares_since(last.uses)
        of_cpu_time = {name: share * busy_ratio for name, share in cpu_time.items()}
        shares = host_shares(now.gpu_shares, now.allocated_since(last.seconds).cpus, of_cpu_time)
        self.grams.count_host(self.accounts, shares, now.seconds - last.seconds)

    def _add_measured(self, component: Component, joules: float) -> None:
        if component not in self.measured_joules:
            self.measured_joules[component] = 0.0
            self.unattributed_joules[component, "idle"] = 0.0
            self.unattributed_joules[component, "system"] = 0.0
            if component == "gpu":
                self.equally_shared_joules[component] = 0.0
        self.measured_joules[component] += joules

    def _count_gpus(self, devices: Sequence[DeviceReading], holdings: Holdings) -> None:
        limit_of = {device.device: device.gpu.power_limit_watts for device in devices if device.gpu is not None}
        held: dict[str, list[float | None]] = defaultdict(list)
        uuids: dict[str, list[str]] = defaultdict(list)
        for uuid, parts in holdings.parts.items():
            for name in frozenset().union(*(part.holders for part in parts)) - {SYSTEM}:
                held[name].append(limit_of[uuid])
            for part in parts:
                for name in part.holders:
                    uuids[name].append(part.uuid)
        for name, account in self.accounts.items():
            limits = held.get(name, [])
            known = [watts for watts in limits if watts is not None]
            account.gpus = len(limits)
            account.gpu_uuids = tuple(uuids.get(name, ()))
            account.gpu_power_limit_watts = math.fsum(known) if known and len(known) == len(limits) else None

    def _forget(self, now_seconds: float) -> None:
        """Close the accounts of jobs that ended more than the linger time ago."""
        limit = now_seconds - self._linger_seconds
        if any(piece.seen_seconds < limit for piece in self._pieces.values()):
            self._pieces = {unit: piece for unit, piece in self._pieces.items() if piece.seen_seconds >= limit}
        if any(account.last_seen_seconds < limit for account in self.accounts.values()):
            kept = {name: a for name, a in self.accounts.items() if a.last_seen_seconds >= limit}
            self.grams.forget(self.accounts.keys() - kept.keys())
            self.accounts = kept

    def state(self) -> Json:
        """Everything a restart needs; CPU times that several devices share stand once."""
        distinct = list({id(device.uses): device.uses for device in self._devices.values()}.values())
        position = {id(uses): index for index, uses in enumerate(distinct)}
        return {
            "accounts": {name: account.to_json() for name, account in self.accounts.items()},
            "pieces": {unit: piece.to_json() for unit, piece in self._pieces.items()},
            "measured": self.measured_joules,
            "unattributed": [[*key, joules] for key, joules in self.unattributed_joules.items()],
            "equally_shared": self.equally_shared_joules,
            "idle_watts": self.idle_power.state(),
            "uses": [uses_to_json(uses) for uses in distinct],
            "devices": {name: device.to_json(position[id(device.uses)]) for name, device in self._devices.items()},
        }

    def restore(self, state: Json, now_seconds: float, *, same_boot: bool) -> None:
        """Take up `state()` of an earlier process. After a reboot only the accounts, totals and idle powers go on.

        Raises:
            KeyError, TypeError, ValueError, IndexError, AttributeError: it is no such state; the ledger is unchanged.
        """
        accounts = {str(name): Account.from_json(name, account) for name, account in state["accounts"].items()}
        pieces = {str(unit): Piece.from_json(unit, piece) for unit, piece in state["pieces"].items()}
        measured = amounts(state["measured"], COMPONENTS)
        unattributed = {(component, reason): amount(joules) for component, reason, joules in state["unattributed"]}
        if unattributed.keys() != {(component, reason) for component in measured for reason in get_args(Reason)}:
            raise ValueError("idle and system energy of every measured component are needed, and no other")
        equally = amounts(state["equally_shared"], COMPONENTS)
        if equally.keys() != measured.keys() & {"gpu"}:
            raise ValueError("equally shared energy is that of GPUs")
        idle_watts = {str(device): amount(watts) for device, watts in state["idle_watts"].items()}
        uses = [uses_from_json(saved) for saved in state["uses"]]
        devices = {str(name): Device.from_json(device, uses) for name, device in state["devices"].items()}
        self.accounts, self.measured_joules, self.unattributed_joules = accounts, measured, unattributed
        self.equally_shared_joules = equally
        self.idle_power.restore(idle_watts)
        self._devices, self._pieces = (devices, pieces) if same_boot else ({}, {})
        self.grams.forget_all()
        if not same_boot:
            for account in self.accounts.values():
                account.last_seen_seconds = now_seconds


def _rise(now: float, last: float) -> float:
    """How much a cumulative reading rose; one that is smaller than before counts from 0 again."""
    return now - last if now >= last else now
