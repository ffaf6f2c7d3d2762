"""The scripted day is what its script says: the truth adds up, and a node's last page is the truth."""

import time
from itertools import pairwise

import pytest
import requests
from scripted_day import first_line, node_process
from scripted_day_script import (
    DAY_SECONDS,
    DONE,
    HEALTHY,
    HOSTS,
    HOUR,
    IDLING,
    JOBS,
    STALLED,
    Truth,
    gpu_uuid,
    intensity,
    pushed,
    scrapes,
)

END = 1.8e9
NOW = Truth(END, END)


def test_power_now_is_that_of_all_devices():
    # Three packages and DRAM zones idle, one system share each, the CPU time of six jobs, six GPUs.
    assert NOW.power(component="cpu") == pytest.approx(3 * (60 + 5) + 2 * 20 + 20 + 80 + 20 + 60 + 10)
    assert NOW.power(component="gpu") == pytest.approx(300 + 280 + 400 + 250 + 50 + 50)
    assert NOW.power(owner="idle", component="gpu") == 50
    assert NOW.power(owner=DONE) == 0
    assert NOW.power() == pytest.approx(sum(NOW.power(host=host.name) for host in HOSTS))


def test_energy_and_grams_of_a_job_are_products():
    assert NOW.joules(owner=HEALTHY) == pytest.approx(10 * HOUR * (300 + 280 + 2 * 22))
    assert NOW.joules(owner=DONE) == pytest.approx(4.5 * HOUR * (350 + 22))
    last_hour = [END - HOUR + second for second in range(0, 3600, 60)]
    by_minutes = sum(372 * 60 * 1.2 * intensity("DE", at) / 3.6e6 for at in last_hour) / 372 * 272
    assert NOW.grams(END - HOUR, owner=STALLED) == pytest.approx(by_minutes)
    assert NOW.grams(owner=HEALTHY) == pytest.approx(
        NOW.grams(owner=HEALTHY, basis="lifecycle") + NOW.grams(owner=HEALTHY, basis="unspecified")
    )


def test_epochs_stop_with_a_job_that_stalls_or_ends():
    healthy, done, stalled = (next(job for job in JOBS if job.name == name) for name in (HEALTHY, DONE, STALLED))
    assert [NOW.epochs(job) for job in (healthy, done, stalled)] == [10, 9, 12]
    assert Truth(END, END + HOUR).epochs(healthy) == 11
    assert Truth(END, END + HOUR).epochs(stalled) == 12


def test_pushes_tell_what_was_done_by_then():
    lines = pushed(END, END - 7 * HOUR)
    assert not [line for line in lines if IDLING in line]
    assert [line for line in lines if line.startswith("carbon_training_epochs_completed") and DONE in line] == [
        f'carbon_training_epochs_completed{{instance="",job="carbon_training",training_job="{DONE}"}} 8.0'
    ]
    assert not [line for line in lines if line.startswith("carbon_training_finished")]
    assert [line for line in pushed(END, END) if line.startswith("carbon_training_finished") and DONE in line]


def test_scrapes_cover_the_day_in_order():
    times = [*scrapes(END)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert (times[0], times[-1]) == (END - DAY_SECONDS + 60, END)
    assert set(gaps[:1400]) == {60.0}
    assert min(gaps) > 0
    assert max(gaps) <= 60
    assert set(gaps[-199:]) == {2.0}


def _total(lines, name, *labels):
    """The sum of a metric's samples that have all these labels."""
    found = [line for line in lines if line.startswith(f"{name}{{") and all(label in line for label in labels)]
    assert found, (name, labels)
    return sum(float(line.rsplit("} ", 1)[1].split()[0]) for line in found)


@pytest.mark.slow
def test_a_nodes_pages_are_the_truth_at_the_end_and_live(nvml_library, tmp_path):
    host, end = HOSTS[0], float(round(time.time()) - 5)
    with node_process(host, end, tmp_path, nvml_library) as process:
        url = first_line(process)
        time.sleep(2.5)
        live = requests.get(f"{url}/metrics", timeout=5).text.splitlines()
        asked = time.time()
    pages = (tmp_path / host.name / "pages").read_text().splitlines()
    day = [line for line in pages if line.endswith(f" {end:.0f}")]
    for lines, at, late in ((day, end, 0), (live, asked, 3)):
        truth = Truth(end, at)
        for owner in (HEALTHY, STALLED, IDLING):
            for component in ("cpu", "dram", "gpu"):
                known = truth.joules(host=host.name, owner=owner, component=component)
                slack = 1e-4 * known + late * truth.power(host=host.name, owner=owner, component=component)
                labels = (f'training_job="{owner}"', f'component="{component}"')
                assert _total(lines, "carbon_job_energy_joules_total", *labels) == pytest.approx(known, abs=slack)
        idle = truth.joules(host=host.name, owner="idle")
        # A counter says nothing before it was read first.
        unattributed = _total(lines, "carbon_unattributed_energy_joules_total", 'reason="idle"')
        assert unattributed == pytest.approx(idle, rel=1e-3)
        grams = truth.grams(host=host.name, owner=HEALTHY)
        assert _total(lines, "carbon_job_emissions_grams_total", f'"{HEALTHY}"') == pytest.approx(grams, rel=1e-3)
        assert _total(lines, "carbon_gpu_power_watts", gpu_uuid(host.name, 1)) == 250
        assert _total(lines, "carbon_gpu_utilization_ratio", gpu_uuid(host.name, 2)) == 0
    known = Truth(end, end).joules(host=host.name)
    measured = _total(day, "carbon_rapl_energy_joules_total") + _total(day, "carbon_gpu_energy_joules_total")
    assert measured == pytest.approx(known, rel=1e-3)
