"""sources/rapl on trees that move, wrap, vanish and lie."""

import json
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from powercap import USUAL_RANGE_UJ, Powercap, as_nobody, two_sockets
from pydantic import ValidationError

from carbon_exporter.metrics import RAPL_ENERGY
from carbon_exporter.model import Roots, SourceReading
from carbon_exporter.sources import rapl

RANGE_UJ = 1_000_000_000


@pytest.fixture
def sysfs():
    """Not tmp_path: nobody but its owner may pass through that, and one test reads as nobody."""
    root = Path(tempfile.mkdtemp(prefix="powercap-"))
    root.chmod(0o755)
    yield root / "sys"
    shutil.rmtree(root)


def open_rapl(sysfs: Path, **keys: object) -> rapl.Rapl:
    return rapl.open_source(rapl.Settings(**keys), Roots(sysfs=sysfs))


def joules(reading: SourceReading) -> dict[str, float]:
    return {device.device: device.energy_joules for device in reading.devices}


def one_package(sysfs: Path, **arguments: object):
    return Powercap(sysfs).add("intel-rapl:0", "package-0", **{"range_uj": RANGE_UJ, **arguments})


def test_each_zone_counts_once_under_a_stable_name_and_the_mmio_twin_never(sysfs):
    two_sockets(sysfs)
    reading = open_rapl(sysfs).read(0.0)
    assert reading.failures == ()
    assert reading.present
    found = [(device.device, device.component, tuple(device.labels.values())) for device in reading.devices]
    assert found == [
        ("package-0", "cpu", ("0", "", "package")),
        ("dram-0", "dram", ("0", "", "dram")),
        ("package-1-die-0", "cpu", ("1", "0", "package")),
        ("dram-1-die-0", "dram", ("1", "0", "dram")),
        ("package-1-die-1", "cpu", ("1", "1", "package")),
    ]
    for device in reading.devices:
        assert tuple(device.labels) == RAPL_ENERGY.labels
        assert (device.method, device.includes_idle, device.energy_joules) == ("rapl", True, 0.0)


def test_the_description_says_where_the_counters_are(sysfs):
    assert open_rapl(sysfs).describe() == f"counters under {sysfs / 'class' / 'powercap'}"


def test_domains_inside_others_are_published_when_asked_for_and_shared_with_nobody(sysfs):
    tree = two_sockets(sysfs)
    tree.add("intel-rapl:3", "psys")
    tree.add("intel-rapl:4", "psys-1")
    reading = open_rapl(sysfs, domains=("core", "uncore", "psys")).read(0.0)
    found = {device.device: device.component for device in reading.devices}
    assert found == {"core-0": None, "uncore-1-die-1": None, "psys-0": None, "psys-1": None}
    assert reading.failures == ()


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_sub_zones_are_found_inside_their_parents_and_beside_them(sysfs, nested):
    powercap = sysfs / "class" / "powercap"
    for number, name in (("", "package-0"), (":0", "dram"), (":10", "core")):
        parent = powercap / "intel-rapl:0" if nested and number else powercap
        zone = parent / f"intel-rapl:0{number}"
        zone.mkdir(parents=True)
        for file, text in (("name", name), ("energy_uj", "5"), ("max_energy_range_uj", "100")):
            (zone / file).write_text(f"{text}\n")
    reading = open_rapl(sysfs, domains=("package", "dram", "core")).read(0.0)
    assert list(joules(reading)) == ["package-0", "dram-0", "core-0"]
    assert reading.failures == ()


def test_packages_stand_in_the_order_of_their_numbers(sysfs):
    tree = Powercap(sysfs)
    for number in range(12):
        tree.add(f"intel-rapl:{number}", f"package-{number}")
    assert list(joules(open_rapl(sysfs).read(0.0))) == [f"package-{number}" for number in range(12)]


def test_a_bare_control_type_is_no_zone_and_absence_is_quiet(sysfs):
    source = open_rapl(sysfs)
    assert source.read(0.0) == SourceReading(present=False)
    tree = Powercap(sysfs)
    assert source.read(1.0) == SourceReading(present=False)
    tree.add("intel-rapl-mmio:0", "package-0")
    (sysfs / "class" / "powercap" / "intel-rapl" / "intel-rapl:0").mkdir(parents=True)
    assert source.read(2.0) == SourceReading(present=False)


def test_energy_over_fifty_wraps_is_exact(sysfs):
    zone = one_package(sysfs, range_uj=USUAL_RANGE_UJ, start_uj=USUAL_RANGE_UJ - 1)
    source = open_rapl(sysfs)
    source.read(0.0)
    step_uj = 197_654_321_987
    steps = 50 * USUAL_RANGE_UJ // step_uj + 1
    for tick in range(1, steps + 1):
        zone.spend(step_uj)
        (device,) = source.read(tick * 60.0).devices
        assert device.energy_joules == zone.spent_joules
    assert zone.spent_uj > 50 * USUAL_RANGE_UJ


def test_a_moving_tree_agrees_with_its_truth_whenever_it_stands_still(sysfs):
    range_uj = 30_000_000
    tree = two_sockets(sysfs, range_uj=range_uj, watts=40.0)
    tree.zones["intel-rapl:0"].watts = lambda seconds: 75.0 if int(seconds * 10) % 2 else 12.5
    source = open_rapl(sysfs)
    source.read(0.0)
    zones = {"package-0": "intel-rapl:0", "dram-1-die-0": "intel-rapl:1:0", "package-1-die-1": "intel-rapl:2"}
    tick = 0
    with tree.moving():
        while tree.zones["intel-rapl:0"].spent_uj < 3 * range_uj:
            tick += 1
            time.sleep(0.01)
            with tree.still():
                found = joules(source.read(tick * 1.0))
                assert found.items() >= {name: tree.zones[key].spent_joules for name, key in zones.items()}.items()


def test_permission_denied_is_loud_names_the_cure_and_hides_nothing_else(sysfs):
    tree = two_sockets(sysfs)
    path = sysfs / "class" / "powercap" / "intel-rapl:1" / "energy_uj"
    for zone in tree.zones.values():
        (zone.directory / "energy_uj").chmod(0o444)
    path.chmod(0)
    with as_nobody():
        reading = open_rapl(sysfs).read(0.0)
    assert list(joules(reading)) == ["package-0", "dram-0", "dram-1-die-0", "package-1-die-1"]
    assert reading.failures == (
        f"{path}: Permission denied; run the node agent as root (it may drop all capabilities)",
    )


def test_a_powercap_directory_that_may_not_be_listed_is_a_failure_not_absence(sysfs):
    two_sockets(sysfs)
    powercap = sysfs / "class" / "powercap"
    powercap.chmod(0)
    with as_nobody():
        reading = open_rapl(sysfs).read(0.0)
    assert reading.present
    assert reading.devices == ()
    assert reading.failures == (
        f"{powercap}: Permission denied; run the node agent as root (it may drop all capabilities)",
    )


def test_a_zone_that_may_not_be_entered_hides_no_other(sysfs):
    tree = two_sockets(sysfs)
    for zone in tree.zones.values():
        (zone.directory / "energy_uj").chmod(0o444)
    tree.zones["intel-rapl:1"].directory.chmod(0)
    with as_nobody():
        reading = open_rapl(sysfs).read(0.0)
    assert list(joules(reading)) == ["package-0", "dram-0", "package-1-die-1"]
    assert all("intel-rapl:1" in failure and "Permission denied; run" in failure for failure in reading.failures)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is no number of microjoules"),
        ("\n", "'' is no number of microjoules"),
        ("-5\n", "'-5' is no number"),
        ("12 34\n", "'12 34' is no number"),
        ("1e6\n", "'1e6' is no number"),
        ("1_0\n", "'1_0' is no number"),
        ("nan\n", "'nan' is no number"),
        ("\u0661\n", "is no number"),
        ("9" * 5000, "is no number"),
        (f"{RANGE_UJ + 1}\n", f"{RANGE_UJ + 1} is more than its max_energy_range_uj, {RANGE_UJ}"),
    ],
)
def test_a_value_that_is_none_fails_alone_and_costs_no_joule(sysfs, text, complaint):
    tree = two_sockets(sysfs, range_uj=RANGE_UJ)
    zone = tree.zones["intel-rapl:0"]
    source = open_rapl(sysfs)
    source.read(0.0)
    zone.spend(7_000_000)
    zone.show_text(text)
    reading = source.read(1.0)
    assert len(reading.devices) == 4
    assert "package-0" not in joules(reading)
    (failure,) = reading.failures
    assert failure.startswith(f"{sysfs / 'class' / 'powercap' / 'intel-rapl:0' / 'energy_uj'}: ")
    assert complaint in failure
    assert "\n" not in failure
    assert len(failure) < 300
    zone.spend(5_000_000)
    reading = source.read(2.0)
    assert joules(reading)["package-0"] == 12.0
    assert reading.failures == ()


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("/proc/self/mem", "Input/output error"),
        (".", "Is a directory"),
        ("energy_uj", "Too many levels of symbolic links"),
        ("nowhere", "No such file or directory; in a container"),
    ],
)
def test_what_the_kernel_says_is_passed_on(sysfs, target, complaint):
    tree = two_sockets(sysfs)
    path = tree.zones["intel-rapl:0"].directory / "energy_uj"
    path.unlink()
    path.symlink_to(target)
    reading = open_rapl(sysfs).read(0.0)
    assert len(reading.devices) == 4
    (failure,) = reading.failures
    assert "intel-rapl:0/energy_uj: " in failure
    assert complaint in failure


@pytest.mark.parametrize("text", [None, "", "garbage", "-1", "0"])
def test_without_a_range_rises_count_and_a_wrap_is_said_to_be_unknown(sysfs, text):
    zone = one_package(sysfs)
    path = zone.directory / "max_energy_range_uj"
    path.unlink()
    if text is not None:
        path.write_text(text)
    source = open_rapl(sysfs)
    source.read(0.0)
    zone.spend(RANGE_UJ - 1)
    reading = source.read(1.0)
    assert joules(reading) == {"package-0": (RANGE_UJ - 1) / 1e6}
    assert reading.failures == ()
    zone.spend(3_000_001)
    reading = source.read(2.0)
    assert reading.devices == ()
    (failure,) = reading.failures
    assert f"went from {RANGE_UJ - 1} to 3000000 and max_energy_range_uj does not tell" in failure
    zone.spend(4_000_000)
    assert joules(source.read(3.0)) == {"package-0": (RANGE_UJ - 1 + 4_000_000) / 1e6}


def test_a_rise_faster_than_allowed_is_unknown_and_names_the_key(sysfs):
    zone = one_package(sysfs)
    source = open_rapl(sysfs, fastest_watts=100)
    source.read(0.0)
    zone.spend(200_000_000)
    assert joules(source.read(2.0)) == {"package-0": 200.0}
    zone.spend(201_000_000)
    reading = source.read(4.0)
    assert reading.devices == ()
    (failure,) = reading.failures
    assert "faster than sources.rapl.fastest_watts allows (100)" in failure
    zone.spend(50_000_000)
    assert joules(source.read(5.0)) == {"package-0": 250.0}


def test_a_counter_reset_is_not_taken_for_a_wrap(sysfs):
    zone = one_package(sysfs, range_uj=USUAL_RANGE_UJ, start_uj=5_000_000_000)
    source = open_rapl(sysfs)
    source.read(0.0)
    zone.show_text("1000000\n")
    reading = source.read(2.0)
    assert reading.devices == ()
    assert "a reset, or raise that key" in reading.failures[0]
    zone.show_text("4000000\n")
    assert joules(source.read(4.0)) == {"package-0": 3.0}


def test_a_zone_that_vanishes_is_a_failure_and_returns_with_every_joule(sysfs):
    tree = two_sockets(sysfs, range_uj=RANGE_UJ)
    zone = tree.zones["intel-rapl:0:1"]
    source = open_rapl(sysfs)
    source.read(0.0)
    zone.spend(900_000_000)
    source.read(100.0)
    zone.vanish()
    zone.spend(300_000_000)
    reading = source.read(200.0)
    assert "dram-0" not in joules(reading)
    assert len(reading.devices) == 4
    (failure,) = reading.failures
    assert failure.startswith(f"dram-0: no readable zone of this name under {sysfs / 'class' / 'powercap'} any more")
    zone.come_back()
    reading = source.read(300.0)
    assert joules(reading)["dram-0"] == 1200.0
    assert reading.failures == ()


def test_when_all_zones_vanish_the_hardware_is_still_known(sysfs):
    zone = one_package(sysfs)
    source = open_rapl(sysfs)
    source.read(0.0)
    zone.vanish()
    reading = source.read(1.0)
    assert reading.present
    assert len(reading.failures) == 1
    shutil.rmtree(sysfs)
    assert source.read(2.0) == reading


def test_zones_that_were_there_once_are_never_taken_for_absent_hardware(sysfs):
    zone = Powercap(sysfs).add("intel-rapl:0", "psys")
    source = open_rapl(sysfs)
    assert source.read(0.0) == SourceReading(present=True)
    zone.vanish()
    assert source.read(1.0) == SourceReading(present=True)


def test_links_into_a_masked_device_tree_name_the_cure(sysfs):
    two_sockets(sysfs)
    shutil.rmtree(sysfs / "devices")
    reading = open_rapl(sysfs).read(0.0)
    assert reading.present
    assert reading.devices == ()
    assert any("intel-rapl:0/name: No such file" in failure for failure in reading.failures)
    assert all("in a container, mount the host's /sys" in failure for failure in reading.failures)


@pytest.mark.parametrize("name", ["", "package", "package--1", "package-0-die-", "gpu", "package-\u0661", "x" * 5000])
def test_an_unknown_zone_name_fails_alone(sysfs, name):
    tree = two_sockets(sysfs)
    (tree.zones["intel-rapl:1"].directory / "name").write_text(name)
    reading = open_rapl(sysfs).read(0.0)
    assert list(joules(reading)) == ["package-0", "dram-0", "package-1-die-1"]
    unnamed, orphan = reading.failures
    assert "intel-rapl:1/name: " in unnamed
    assert "is no RAPL domain" in unnamed
    assert len(unnamed) < 300
    assert "intel-rapl:1:0: the package that this dram belongs to cannot be read" in orphan


def test_of_two_zones_with_one_name_the_first_counts(sysfs):
    tree = Powercap(sysfs)
    first, second = (tree.add(f"intel-rapl:{number}", "package-0") for number in (2, 10))
    source = open_rapl(sysfs)
    source.read(0.0)
    first.spend(3_000_000)
    second.spend(90_000_000)
    reading = source.read(1.0)
    assert joules(reading) == {"package-0": 3.0}
    (failure,) = reading.failures
    assert "intel-rapl:10: calls itself package-0 as " in failure


def test_a_restart_counts_the_joules_of_the_time_between(sysfs):
    zone = one_package(sysfs)
    source = open_rapl(sysfs)
    source.read(0.0)
    zone.spend(700_000_000)
    source.read(10.0)
    saved = json.loads(json.dumps(source.state()))
    zone.spend(600_000_000)
    again = open_rapl(sysfs)
    again.restore(saved)
    assert joules(again.read(100.0)) == {"package-0": 1300.0}
    source.close()


def test_a_zone_of_an_earlier_process_that_is_gone_is_a_failure(sysfs):
    zone = one_package(sysfs)
    source = open_rapl(sysfs, domains=("package", "dram"))
    source.read(0.0)
    zone.vanish()
    again = open_rapl(sysfs)
    again.restore(source.state())
    reading = again.read(1.0)
    assert reading.present
    assert reading.failures[0].startswith("package-0: no readable zone")
    deselected = open_rapl(sysfs, domains=("dram",))
    deselected.restore(source.state())
    assert deselected.read(1.0) == SourceReading(present=False)


GOOD = {"raw": 1, "total": 5e6, "seconds": 0}


@pytest.mark.parametrize(
    "saved",
    [
        None,
        [],
        "",
        5,
        {"raw": "x"},
        *({**GOOD, key: value} for key in GOOD for value in (-1, float("nan"), "x", [], 10**400)),
    ],
)
def test_a_state_that_is_none_is_ignored_zone_by_zone(sysfs, saved):
    two_sockets(sysfs, start_uj=1)
    source = open_rapl(sysfs)
    source.restore({"zones": {"package-0": saved, "dram-0": GOOD, "gpu-0": GOOD}})
    reading = source.read(1.0)
    assert reading.failures == ()
    assert joules(reading)["package-0"] == 0.0
    assert joules(reading)["dram-0"] == 5.0


@pytest.mark.parametrize("state", [{}, None, [], {"zones": None}, {"zones": [1]}, "zones"])
def test_a_foreign_state_is_ignored(sysfs, state):
    one_package(sysfs)
    source = open_rapl(sysfs)
    source.restore(state)
    assert joules(source.read(0.0)) == {"package-0": 0.0}


@pytest.mark.parametrize(
    "keys", [{"domains": ("gpu",)}, {"fastest_watts": 0}, {"fastest_watts": float("inf")}, {"x": 1}]
)
def test_settings_that_make_no_sense_are_refused(keys):
    with pytest.raises(ValidationError):
        rapl.Settings(**keys)


@st.composite
def lives(draw):
    """A range, and what happens from tick to tick: microjoules spent, and how the zone can be read then."""
    range_uj = draw(st.integers(1, 2**38))
    events = st.sampled_from(["read", "read", "read", "restart", "empty", "garbage", "gone", "no range"])
    steps = draw(st.lists(st.tuples(st.floats(0, 1), events), max_size=40))
    return range_uj, draw(st.integers(0, range_uj - 1)), steps


@settings(max_examples=150, deadline=None)
@given(lives())
def test_the_total_is_the_truth_and_never_goes_back(life):
    """At most one wrap between two readings; a wrap without a range is the one thing that may be lost, and is said."""
    range_uj, start_uj, steps = life
    with tempfile.TemporaryDirectory() as directory:
        sysfs = Path(directory) / "sys"
        zone = one_package(sysfs, range_uj=range_uj, start_uj=start_uj)
        source = open_rapl(sysfs)
        source.read(0.0)
        lost_uj, unseen_uj, shown_joules = 0, 0, 0.0
        last_raw = raw = start_uj
        for tick, (part, event) in enumerate(steps, 1):
            spent_uj = int(part * (range_uj - 1 - unseen_uj))
            unseen_uj += spent_uj
            zone.spend(spent_uj)
            raw = (raw + spent_uj) % range_uj
            if event == "restart":
                saved = json.loads(json.dumps(source.state()))
                source = open_rapl(sysfs)
                source.restore(saved)
            elif event == "gone":
                zone.vanish()
            elif event in ("empty", "garbage"):
                zone.show_text("" if event == "empty" else "x")
            elif event == "no range":
                (zone.directory / "max_energy_range_uj").write_text("?")
            reading = source.read(tick * 3600.0)
            assert reading.present
            assert bool(reading.failures) is not bool(reading.devices)
            unreadable = event in ("gone", "empty", "garbage")
            unknown = event == "no range" and raw < last_raw
            assert bool(reading.failures) is (unreadable or unknown)
            if unknown:
                lost_uj += unseen_uj
            if not unreadable:
                last_raw, unseen_uj = raw, 0
            if reading.devices:
                now_joules = reading.devices[0].energy_joules
                assert now_joules == (zone.spent_uj - lost_uj) / 1e6
                assert now_joules >= shown_joules
                shown_joules = now_joules
            if event == "gone":
                zone.come_back()
            zone.show()
            (zone.directory / "max_energy_range_uj").write_text(f"{range_uj}\n")
