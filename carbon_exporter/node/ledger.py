"""Shares joules out to jobs. Pure: cumulative readings in, cumulative accounts out; no clock, no file.

For every device, between two readings of it:

    energy = active + idle;  active goes to jobs by use, and to "system" what no job used;
    so that, per component, jobs + idle + system = measured.

Of a CPU or of memory, `active` is the host's busy share of the energy (all of it where the joules are an estimate of
use alone), divided by CPU time. Of a GPU, all of it goes to whoever holds it: to one holder wholly, to several by SM
utilisation, equally where that is unknown; nobody's GPU is idle. Each device remembers the CPU times at its own last
reading, so a device that could not be read for a while is shared by the CPU time of that while.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

from carbon_exporter.model import COMPONENTS, Component, DeviceReading, HostCpu, JobUse, Json
from carbon_exporter.node.shares import SYSTEM_HOLDER, Uses, cpu_shares, gpu_shares, holders_of

Reason = Literal["idle", "system"]


@dataclass(slots=True)
class Account:
    """What one job has had on this node since it was first seen."""

    use: JobUse
    last_seen_seconds: float
    energy_joules: dict[Component, float] = field(default_factory=dict)
    emissions_grams: dict[Component, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    gpus: int = 0


@dataclass(slots=True)
class _Device:
    """A device as last read: its energy, the CPU times then, and who held it."""

    energy_joules: float
    uses: Uses
    holders: frozenset[str] = frozenset()


class Ledger:
    """The accounts of one node.

    Args:
        linger_seconds: how long the account of an ended job stays.
    """

    def __init__(self, linger_seconds: float) -> None:
        self._linger_seconds = linger_seconds
        self.accounts: dict[str, Account] = {}
        self.measured_joules: dict[Component, float] = {}
        self.unattributed_joules: dict[tuple[Component, Reason], float] = {}
        self.equally_shared_joules: dict[Component, float] = {}
        self._devices: dict[str, _Device] = {}

    def post(
        self,
        devices: Sequence[DeviceReading],
        jobs: Sequence[JobUse],
        host: HostCpu,
        now_seconds: float,
        grams_per_joule: float,
    ) -> None:
        """Share what the devices measured since they were last posted.

        Args:
            devices: the devices that could be read now.
            jobs: the jobs alive now; one absent has ended.
            host: CPU time of the whole host now.
            now_seconds: the time of all three, on a clock that never goes back.
            grams_per_joule: PUE times grid intensity in force now.
        """
        self._take_use(jobs, now_seconds)
        uses = Uses({name: account.cpu_seconds for name, account in self.accounts.items()}, host)
        held: dict[str, int] = defaultdict(int)
        gpus = [device for device in devices if device.gpu is not None]
        on_gpus = frozenset().union(*(device.gpu.pids for device in gpus if device.gpu is not None))
        jobs = [use for use in jobs if use.devices or not on_gpus.isdisjoint(use.pids)]
        shares_since = cache(lambda last_uses: cpu_shares(last_uses, uses))  # most devices were last read together
        for device in devices:
            if device.component is None:
                continue
            holders = holders_of(device, gpus, jobs)
            for name in holders - {SYSTEM_HOLDER}:
                held[name] += 1
            self._share(device, shares_since, holders, jobs, grams_per_joule)
            self._devices[device.device] = _Device(device.energy_joules, uses, holders)
        for name, account in self.accounts.items():
            account.gpus = held[name]
        self._forget(now_seconds)

    def _take_use(self, jobs: Sequence[JobUse], now_seconds: float) -> None:
        """Open accounts for new jobs, and add the CPU time that each job used since it was last seen."""
        for use in jobs:
            account = self.accounts.get(use.training_job)
            if account is None:
                account = self.accounts[use.training_job] = Account(use, now_seconds, cpu_seconds=use.cpu_seconds)
            elif use is not account.use:
                account.cpu_seconds += _rise(use.cpu_seconds, account.use.cpu_seconds)
                account.use = use
            account.last_seen_seconds = now_seconds

    def _share(
        self,
        device: DeviceReading,
        shares_since: Callable[[Uses], tuple[Mapping[str, float], float]],
        holders: frozenset[str],
        jobs: Sequence[JobUse],
        grams_per_joule: float,
    ) -> None:
        component = device.component
        if component is None:
            return
        last = self._devices.get(device.device)
        joules = _rise(device.energy_joules, last.energy_joules) if last is not None else 0.0
        self._add_measured(component, joules)
        if last is None:
            return
        if component == "gpu":
            shares = self._gpu_shares(device, holders or last.holders, jobs, joules)
            active_joules = joules if shares else 0.0
        else:
            shares, busy_ratio = shares_since(last.uses)
            active_joules = joules * busy_ratio if device.includes_idle else joules
        to_jobs = 0.0
        for name, share in shares.items():
            account = self.accounts.get(name)
            if account is None:
                continue
            part = active_joules * share
            to_jobs += part
            energy, emissions = account.energy_joules, account.emissions_grams
            energy[component] = energy.get(component, 0.0) + part
            emissions[component] = emissions.get(component, 0.0) + part * grams_per_joule
        self.unattributed_joules[component, "idle"] += joules - active_joules
        self.unattributed_joules[component, "system"] += max(0.0, active_joules - to_jobs)

    def _add_measured(self, component: Component, joules: float) -> None:
        if component not in self.measured_joules:
            self.measured_joules[component] = 0.0
            self.unattributed_joules[component, "idle"] = 0.0
            self.unattributed_joules[component, "system"] = 0.0
            if component == "gpu":
                self.equally_shared_joules[component] = 0.0
        self.measured_joules[component] += joules

    def _gpu_shares(
        self, device: DeviceReading, holders: frozenset[str], jobs: Sequence[JobUse], joules: float
    ) -> Mapping[str, float]:
        shares, equally = gpu_shares(device, holders, jobs)
        if equally:
            self.equally_shared_joules["gpu"] += joules
        return shares

    def _forget(self, now_seconds: float) -> None:
        """Close the accounts of jobs that ended more than the linger time ago."""
        limit = now_seconds - self._linger_seconds
        self.accounts = {name: a for name, a in self.accounts.items() if a.last_seen_seconds >= limit}

    def state(self) -> Json:
        """Everything a restart needs; CPU times that several devices share stand once."""
        distinct = list({id(device.uses): device.uses for device in self._devices.values()}.values())
        position = {id(uses): index for index, uses in enumerate(distinct)}
        return {
            "accounts": {name: _account_to_json(account) for name, account in self.accounts.items()},
            "measured": self.measured_joules,
            "unattributed": [[*key, joules] for key, joules in self.unattributed_joules.items()],
            "equally_shared": self.equally_shared_joules,
            "uses": [
                [dict(u.cpu_seconds), u.host.busy_seconds, u.host.capacity_seconds, u.host.cpus] for u in distinct
            ],
            "devices": {
                name: [device.energy_joules, position[id(device.uses)], sorted(device.holders)]
                for name, device in self._devices.items()
            },
        }

    def restore(self, state: Json, now_seconds: float, *, same_boot: bool) -> None:
        """Take up `state()` of an earlier process. After a reboot only the accounts and totals go on.

        Raises:
            KeyError, TypeError, ValueError, IndexError, AttributeError: it is no such state; the ledger is unchanged.
        """
        accounts = {str(name): _account_from_json(name, account) for name, account in state["accounts"].items()}
        measured = _amounts(state["measured"])
        unattributed = {(component, reason): amount(joules) for component, reason, joules in state["unattributed"]}
        if unattributed.keys() != {(component, reason) for component in measured for reason in get_args(Reason)}:
            raise ValueError("idle and system energy of every measured component are needed, and no other")
        equally = _amounts(state["equally_shared"])
        if equally.keys() != measured.keys() & {"gpu"}:
            raise ValueError("equally shared energy is that of GPUs")
        uses = [
            Uses(
                {name: amount(seconds) for name, seconds in cpu.items()}, HostCpu(amount(busy), amount(all_), int(cpus))
            )
            for cpu, busy, all_, cpus in state["uses"]
        ]
        devices = {
            name: _Device(amount(joules), uses[index], frozenset(map(str, holders)))
            for name, (joules, index, holders) in state["devices"].items()
        }
        self.accounts, self.measured_joules, self.unattributed_joules = accounts, measured, unattributed
        self.equally_shared_joules = equally
        self._devices = devices if same_boot else {}
        if not same_boot:
            for account in self.accounts.values():
                account.use = JobUse(account.use.training_job, account.use.resolver)
                account.last_seen_seconds = now_seconds


def _rise(now: float, last: float) -> float:
    """How much a cumulative reading rose; one that is smaller than before counts from 0 again."""
    return now - last if now >= last else now


def _account_to_json(account: Account) -> Json:
    """Few keys and a whole second: writing all accounts at every tick is a sixth of its time."""
    use = account.use
    return {
        "use": [use.resolver, use.cpu_seconds, use.group, use.user, use.pod_namespace],
        "seen": [int(account.last_seen_seconds), account.cpu_seconds],
        "energy": account.energy_joules,
        "emissions": account.emissions_grams,
    }


def _account_from_json(name: str, state: Any) -> Account:
    resolver, use_seconds, group, user, pod_namespace = state["use"]
    last_seen_seconds, cpu_seconds = state["seen"]
    use = JobUse(
        str(name),
        str(resolver),
        amount(use_seconds),
        group=str(group),
        user=str(user),
        pod_namespace=str(pod_namespace),
    )
    energy, emissions = _amounts(state["energy"]), _amounts(state["emissions"])
    return Account(use, amount(last_seen_seconds), energy, emissions, amount(cpu_seconds))


def _amounts(state: Any) -> dict[Component, float]:
    if not state.keys() <= set(COMPONENTS):
        raise ValueError(f"unknown component among {list(state)}")
    return {component: amount(value) for component, value in state.items()}


def amount(value: Any) -> float:
    """`value` as a number that a cumulative total can be.

    Raises:
        TypeError, ValueError: it is none: not a number, not finite, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no amount")
    return float(value)
