"""Nodes and devices: what each node burns, and each GPU of the nodes selected."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import variables
from dashboards.frame import Row, dashboard
from dashboards.links import TO_JOB, TO_NODE
from dashboards.panels import ORANGE, AnyPanel, Column, Query, bar_panel, stat_panel, table_panel, time_panel
from dashboards.queries import kwh, over_range
from dashboards.variables import CLUSTER, INSTANCE, select

EVERY = select("instance_component:carbon_power_watts:rate5m", CLUSTER)
CHOSEN = select("instance_component:carbon_power_watts:rate5m", CLUSTER, INSTANCE)
TOP = f"topk(20, sum by (cluster, instance) ({EVERY}))"
SOURCE = select("carbon_source_info", CLUSTER)
ESTIMATED = {"estimate": ("estimated", ORANGE)}
EMPTY = "nothing recorded yet: are the recording rules loaded?"
CHOOSE = "nothing: choose nodes above"
NO_GPU = "no GPU on the nodes chosen, or NVML cannot be read"


def on_chosen(metric: str, *matchers: str) -> str:
    """The series of `metric` of the nodes selected: what has a series for each device is asked of these only."""
    return select(metric, CLUSTER, INSTANCE, *matchers)


def build() -> Dashboard:
    """The page about hardware."""
    return dashboard(
        "carbon-nodes",
        "Carbon / Nodes and devices",
        "Power, energy, utilisation and sharing by node and by GPU; estimates are marked.",
        since="now-6h",
        variables=[variables.datasource(), variables.cluster(), variables.chosen_nodes()],
        rows=[
            Row("Which nodes burn most, and is it measured?", _all_nodes()),
            Row("What do the chosen nodes burn?", _chosen()),
            Row("What do their GPUs do?", _gpus()),
            Row("Who gets their energy?", _shares()),
            Row("What do the single counters say?", _counters(), folded=True),
        ],
    )


def _of_top(expr: str) -> str:
    return f"{expr} and on (cluster, instance) {TOP}"


def _all_of(component: str) -> str:
    return select("instance_component:carbon_power_watts:rate5m", CLUSTER, f'component="{component}"')


def _all_nodes() -> list[AnyPanel]:
    estimates = select("carbon_source_info", CLUSTER, 'source="estimate"')
    parts = [
        Column(_of_top(f"max by (cluster, instance) ({_all_of(component)})"), header, "watt")
        for component, header in (("gpu", "GPU"), ("cpu", "CPU"), ("dram", "Memory"))
    ]
    cpu = select("carbon_source_info", CLUSTER, 'component="cpu"')
    return [
        stat_panel(
            "Nodes with power",
            "Nodes of which some power is known now.",
            [Query(f"count(sum by (cluster, instance) ({EVERY}))", "")],
            unit="none",
            empty="nothing recorded yet",
            width=4,
        ),
        stat_panel(
            "Estimated nodes",
            "Nodes where a component's energy is estimated, not measured. `carbon-exporter check` there says why.",
            [Query(f"count(count by (cluster, instance) ({estimates})) or count({SOURCE}) * 0", "")],
            unit="none",
            empty="no node agent answers",
            width=4,
        ),
        stat_panel(
            "Power of all nodes",
            "By component, of the whole cluster.",
            [Query(f"sum by (component) ({select('component:carbon_power_watts:rate5m', CLUSTER)})", "{{component}}")],
            unit="watt",
            empty=EMPTY,
            width=16,
        ),
        table_panel(
            "Top 20 nodes by power",
            "Where the CPU's energy is an estimate, it says so. Click a node to see its devices below.",
            [
                Column(TOP, "Power", "watt"),
                *parts,
                Column(_of_top(f"max by (cluster, instance, source) ({cpu})"), "CPU source", hidden=True),
                Column(
                    _of_top(f"max by (cluster, instance, node_name) ({select('carbon_node_info', CLUSTER)})"),
                    "Node",
                    hidden=True,
                ),
            ],
            labels={"instance": "Instance", "node_name": "Node", "source": "CPU source"},
            words={"source": ESTIMATED},
            links={"instance": TO_NODE},
            empty=EMPTY,
        ),
    ]


def _chosen() -> list[AnyPanel]:
    return [
        time_panel(
            "Power by component",
            "Of the nodes chosen above, mean of 5 minutes.",
            [Query(f"sum by (instance, component) ({CHOSEN})", "{{instance}} {{component}}")],
            unit="watt",
            empty=CHOOSE,
            stacked=True,
            colours={},
        ),
        bar_panel(
            "Energy in the range",
            "Of the nodes chosen, over the range above, CPU, memory and GPU together.",
            [Query(kwh(f"sum by (instance) ({over_range(CHOSEN)})"), "{{instance}}")],
            unit="kwatth",
            empty=CHOOSE,
            width=6,
        ),
        table_panel(
            "Measured or estimated",
            "Where each component's joules come from: a counter (rapl, nvml counter), power readings added up (nvml "
            "integrated), or an estimate by CPU time and thermal design power.",
            [Column(f"max by (instance, component, source) ({on_chosen('carbon_source_info')})", "is", hidden=True)],
            labels={"instance": "Node", "component": "Component", "source": "Source"},
            words={"source": ESTIMATED},
            empty=CHOOSE,
            width=6,
        ),
    ]


def by_gpu(metric: str) -> str:
    """With the GPU's index on its node beside its UUID, too long for a legend."""
    info = on_chosen("carbon_gpu_info", 'mig=""')
    index = f"max by (cluster, instance, uuid, gpu) ({info})"
    one = f"topk by (cluster, instance, uuid) (1, {index})"
    return f"{metric} * on (cluster, instance, uuid) group_left (gpu) {one}"


def _gpus() -> list[AnyPanel]:
    power = on_chosen("carbon_gpu_power_watts")
    used = on_chosen("carbon_gpu_utilization_ratio")
    limit = on_chosen("carbon_gpu_power_limit_watts")
    info = on_chosen("carbon_gpu_info", 'mig=""')
    holder = on_chosen("carbon_gpu_holder_info")
    energy = f"increase({on_chosen('carbon_gpu_energy_joules_total')}[$__range])"
    return [
        time_panel(
            "Power by GPU",
            "Physical GPUs of the nodes chosen, as NVML gives it. Far under the limit while used: it waits for input.",
            [Query(f"max by (instance, gpu) ({by_gpu(power)})", "{{instance}} GPU {{gpu}}")],
            unit="watt",
            empty=NO_GPU,
            colours={},
        ),
        time_panel(
            "Utilisation by GPU",
            "Share of time in which a kernel ran, not how much of the GPU it filled. Held and near 0: the job wastes "
            "it (Carbon / Training job says whose it is).",
            [Query(f"max by (instance, gpu) ({by_gpu(used)})", "{{instance}} GPU {{gpu}}")],
            unit="percentunit",
            most=1,
            empty="no utilisation: NVML gives none for MIG devices and old GPUs",
            colours={},
        ),
        table_panel(
            "GPUs of the nodes chosen",
            "Power, its limit, utilisation, energy over the range above, model, and which jobs hold each GPU. A "
            "GPU of several jobs has several rows, and a MIG device stands under its own UUID.",
            [
                # What comes first is joined by all that comes after: each job of a GPU has a whole row.
                Column(f"max by (instance, uuid, training_job) ({holder})", "Holder", hidden=True),
                Column(f"max by (instance, uuid) ({power})", "Power", "watt"),
                Column(f"max by (instance, uuid) ({limit})", "Limit", "watt"),
                Column(f"max by (instance, uuid) ({used})", "Utilisation", "percentunit", decimals=0),
                Column(kwh(f"max by (instance, uuid) ({energy})"), "Energy in the range", "kwatth"),
                Column(f"max by (instance, uuid, gpu, model) ({info})", "GPU", hidden=True),
            ],
            labels={
                "instance": "Node",
                "gpu": "GPU",
                "model": "Model",
                "training_job": "Training job",
                "uuid": "UUID",
            },
            links={"training_job": TO_JOB},
            empty=NO_GPU,
        ),
    ]


def _shares() -> list[AnyPanel]:
    jobs = f"rate({on_chosen('carbon_job_energy_joules_total')}[$__rate_interval])"
    rest = f"rate({on_chosen('carbon_unattributed_energy_joules_total')}[$__rate_interval])"
    equal = f"increase({on_chosen('carbon_equally_shared_energy_joules_total')}[$__range])"
    every = f"increase({on_chosen('carbon_job_energy_joules_total')}[$__range])"
    return [
        time_panel(
            "Power by job, and without one",
            "What the nodes' jobs draw, and what was idle or went to processes outside every job. Together it is the "
            "nodes' power.",
            [
                Query(f"sum by (training_job) ({jobs})", "{{training_job}}"),
                Query(f"sum by (reason) ({rest})", "{{reason}}"),
            ],
            unit="watt",
            empty=CHOOSE,
            stacked=True,
        ),
        table_panel(
            "Idle power of devices",
            "What a device draws that nobody uses: configured, or learned on it.",
            [Column(f"max by (instance, component, device) ({on_chosen('carbon_idle_power_watts')})", "Idle", "watt")],
            labels={"instance": "Node", "component": "Component", "device": "Device"},
            empty="not known yet: learned while a device is unused",
            width=8,
        ),
        stat_panel(
            "Shared equally",
            "Of the jobs' energy of the range above, the part split equally among holders because their use was "
            "unknown. Much of it: the split between these jobs is a guess (docs/attribution.md).",
            [Query(f"sum by (component) ({equal}) / sum by (component) ({every})", "{{component}}")],
            unit="percentunit",
            empty="no job on these nodes",
            width=4,
            height=8,
            decimals=1,
        ),
    ]


def _counters() -> list[AnyPanel]:
    rapl = f"rate({on_chosen('carbon_rapl_energy_joules_total')}[$__rate_interval])"
    estimate = f"rate({on_chosen('carbon_estimated_energy_joules_total')}[$__rate_interval])"
    return [
        time_panel(
            "RAPL by package and domain",
            "Measured. package and dram may be added; core and uncore lie inside package.",
            [
                Query(
                    f"sum by (instance, package, die, domain) ({rapl})",
                    "{{instance}} package {{package}} {{die}} {{domain}}",
                )
            ],
            unit="watt",
            empty="no RAPL on the nodes chosen: virtual machines have none",
            colours={},
        ),
        time_panel(
            "Estimated",
            "Not measured: CPU time times thermal design power, where there is no counter.",
            [Query(f"sum by (instance, component) ({estimate})", "{{instance}} {{component}} (estimated)")],
            unit="watt",
            empty="nothing is estimated on the nodes chosen",
            colours={},
        ),
    ]
