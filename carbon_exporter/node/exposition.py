"""A tick of the node agent as metric families of the contract."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from carbon_exporter import metrics
from carbon_exporter.grid.exposition import intensity_families
from carbon_exporter.metrics import Family
from carbon_exporter.model import COMPONENTS, Component, DeviceReading, Gpu
from carbon_exporter.node.accounts import Account
from carbon_exporter.node.sampler import Tick


def families(tick: Tick) -> Iterator[Family]:
    """Everything the node agent says about one tick; a device or job that could not be read is not in it."""
    yield from _device_families(tick.devices)
    yield from _job_families(tick)
    yield from _collector_families(tick)
    if tick.intensity is not None:
        yield from intensity_families([tick.intensity])
        yield Family(metrics.NODE_GRID_ZONE, [((tick.intensity.grid_zone,), 1.0)])
    yield Family(metrics.PUE, [((), tick.pue)])
    yield Family(metrics.SAMPLING_GAP, [((), tick.gap_seconds)])
    yield metrics.build_info()


def node_info(name: str) -> Family:
    """carbon_node_info of the node of that name."""
    return Family(metrics.NODE_INFO, [((name,), 1.0)])


def _device_families(devices: tuple[DeviceReading, ...]) -> Iterator[Family]:
    by_metric = {metrics.RAPL_ENERGY: "rapl", metrics.ESTIMATED_ENERGY: "estimate", metrics.GPU_ENERGY: "nvml"}
    for metric, method in by_metric.items():
        found = [device for device in devices if device.method.startswith(method)]
        yield Family(
            metric, [(tuple(d.labels.get(name, "") for name in metric.labels), d.energy_joules) for d in found]
        )
    gpus = [(device.device, device.gpu) for device in devices if device.gpu is not None]
    power = [((uuid,), gpu.power_watts) for uuid, gpu in gpus if gpu.power_watts is not None]
    utilization = [((uuid,), gpu.utilization_ratio) for uuid, gpu in gpus if gpu.utilization_ratio is not None]
    limits = [((uuid,), gpu.power_limit_watts) for uuid, gpu in gpus if gpu.power_limit_watts is not None]
    yield Family(metrics.GPU_POWER, power)
    yield Family(metrics.GPU_POWER_LIMIT, limits)
    yield Family(metrics.GPU_UTILIZATION, utilization)
    yield Family(metrics.GPU_INFO, [(labels, 1.0) for uuid, gpu in gpus for labels in _gpu_labels(uuid, gpu)])
    methods = sorted({(device.component, device.method) for device in devices if device.component is not None})
    yield Family(metrics.SOURCE_INFO, [((component, method), 1.0) for component, method in methods])


def _gpu_labels(uuid: str, gpu: Gpu) -> Iterator[tuple[str, ...]]:
    yield uuid, str(gpu.index), gpu.model, gpu.driver, ""
    for mig in gpu.mig:
        yield mig.uuid, str(gpu.index), mig.model, gpu.driver, mig.instance


def _job_families(tick: Tick) -> Iterator[Family]:
    ledger, accounts = tick.ledger, tick.ledger.accounts
    components = [component for component in COMPONENTS if component in ledger.measured_joules]
    yield Family(
        metrics.JOB_ENERGY,
        [((name, c), a.energy_joules.get(c, 0.0)) for name, a in accounts.items() for c in components],
    )
    yield Family(metrics.JOB_EMISSIONS, _emissions(tick, components))
    if ledger.grams.market_grams_per_joule is not None:
        market = [((name, c), a.market_grams.get(c, 0.0)) for name, a in accounts.items() for c in components]
        yield Family(metrics.JOB_MARKET_EMISSIONS, market)
    parts = ledger.grams.embodied.counted
    embodied = [((name, p), a.embodied_grams.get(p, 0.0)) for name, a in accounts.items() for p in parts]
    yield Family(metrics.JOB_EMBODIED, embodied)
    yield _job_info(accounts.values())
    yield Family(metrics.JOB_GPUS, [((name,), float(account.gpus)) for name, account in accounts.items()])
    holders = [((uuid, name), 1.0) for name, account in accounts.items() for uuid in account.gpu_uuids]
    yield Family(metrics.GPU_HOLDER, holders)
    limits = [
        ((name,), account.gpu_power_limit_watts)
        for name, account in accounts.items()
        if account.gpu_power_limit_watts is not None
    ]
    yield Family(metrics.JOB_GPU_POWER_LIMIT, limits)
    yield Family(metrics.IDLE_POWER, list(_idle_power(tick)))
    yield Family(metrics.NODE_ENERGY, [((component,), joules) for component, joules in ledger.measured_joules.items()])
    yield Family(metrics.UNATTRIBUTED_ENERGY, list(ledger.unattributed_joules.items()))
    yield Family(metrics.EQUALLY_SHARED_ENERGY, [((c,), joules) for c, joules in ledger.equally_shared_joules.items()])


def _emissions(tick: Tick, components: Sequence[Component]) -> list[tuple[tuple[str, ...], float]]:
    """Grams by every basis that they were ever counted on; a component without joules begins at 0 on that in use."""
    accounts = tick.ledger.accounts.items()
    counted: list[tuple[tuple[str, ...], float]] = [
        ((name, component, basis), value)
        for name, account in accounts
        for basis, grams in account.emissions_grams.items()
        for component, value in grams.items()
    ]
    if tick.intensity is not None:
        in_use = tick.intensity.basis
        counted += [((n, c, in_use), 0.0) for n, a in accounts for c in components if c not in a.energy_joules]
    return counted


def _idle_power(tick: Tick) -> Iterator[tuple[tuple[str, ...], float]]:
    for device in tick.devices:
        if device.component is not None and device.includes_idle:
            watts = tick.ledger.idle_power.watts(device.device, device.component)
            if watts is not None:
                yield (device.component, device.device), watts


def _job_info(accounts: Iterable[Account]) -> Family:
    """carbon_job_info, with every label that any resolver gives; a label that a job has not is left out of its line."""
    uses = [account.use for account in accounts]
    known = metrics.JOB_INFO.labels
    more = sorted({label for use in uses for label in use.info if label not in known})
    labels = (*known[3:], *more)
    samples = [
        ((use.training_job, use.resolver, use.group, *(use.info.get(label, "") for label in labels)), 1.0)
        for use in uses
    ]
    return Family(replace(metrics.JOB_INFO, labels=(*known, *more)), samples)


def _collector_families(tick: Tick) -> Iterator[Family]:
    records = tick.records.items()
    yield Family(metrics.COLLECTOR_SUCCESS, [((name,), float(record.success)) for name, record in records])
    yield Family(metrics.COLLECTOR_DURATION, [((name,), record.duration_seconds) for name, record in records])
    successes = [((name,), r.last_success_seconds) for name, r in records if r.last_success_seconds is not None]
    yield Family(metrics.COLLECTOR_LAST_SUCCESS, successes)
    yield Family(metrics.COLLECTOR_FAILURES, [((name,), float(record.failures)) for name, record in records])
