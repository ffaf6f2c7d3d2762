"""Ended runs from CSV files and from Carbontracker's logs of both eras; each bad line is named."""

import csv
import re
import shutil
from collections import defaultdict
from datetime import datetime, timedelta, timezone

import pytest

from carbon_exporter.forecast.importing import parse_csv, read_runs, recordings
from carbon_exporter.forecast.record import EndedRun
from carbon_exporter.model import ConfigurationError

HEADER = "run,config,epoch,duration_s,energy_j"
CSV = [
    HEADER,
    "a/1,lenet,1,20,5000",
    "a/1,lenet,2,10,1000",
    "b/1,vgg,1,5.5,70",
    "a/1,lenet,3,12,1400",
    "b/1,vgg,2,4.5,50.5",
    "b/1,vgg,3,4.5,49.5",
]


def test_a_csv_file_holds_a_run_for_each_name_in_it():
    first, second = parse_csv(CSV, "x.csv")
    assert re.fullmatch(r"a/1~[0-9a-f]{16}", first.training_job)
    assert (first.group, first.ending) == ("lenet", "finished")
    assert (first.epochs_planned, first.epochs_done, first.joules) == (3, 3, 7400)
    assert (first.epoch_joules, first.epoch_seconds) == (1200, 11)
    assert (first.started_seconds, first.ended_seconds, first.grams, first.gpus) == (0, 1, None, None)
    assert [score.epochs for score in first.scores] == [1, 2]
    assert (second.group, second.ended_seconds, second.joules) == ("vgg", 2, 170)
    assert {run.group for run in parse_csv(CSV, "x.csv", "mine")} == {"mine"}


def test_a_run_of_one_epoch_has_no_other_to_tell_what_an_epoch_takes():
    (run,) = parse_csv([HEADER, "a,c,1,20,5000"], "x.csv")
    assert (run.epoch_joules, run.epoch_seconds, run.scores) == (5000, 20, ())


def test_columns_may_stand_in_any_order_beside_others():
    (run,) = parse_csv(["energy_j, epoch ,run,note,config,duration_s", "30,1,a,hm,c,2", "", "10,2,a,,c,4"], "x.csv")
    assert (run.joules, run.epoch_joules, run.epoch_seconds, run.group) == (40, 10, 4, "c")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"x\.csv:1: lacks the column run"),
        (["run,config,epoch,duration_s"], r"x\.csv:1: lacks the column energy_j: .* run,config,epoch,"),
        ([HEADER], r"x\.csv: holds no epoch"),
        ([*CSV, "a/1,lenet,5,10,1000"], r"x\.csv:8: epoch 5 of run 'a/1' stands where epoch 4 belongs"),
        ([HEADER, "a,c,2,10,1000"], r"x\.csv:2: epoch 2 of run 'a' stands where epoch 1 belongs"),
        ([*CSV, "a/1,lenet,1.5,10,1000"], r"x\.csv:8: epoch 1\.5"),
        ([*CSV, "a/1,vgg,4,10,1000"], r"x\.csv:8: run 'a/1' has another config than before"),
        ([*CSV, "c,c,1,10,-1"], r"x\.csv:8: '-1' is no number from 0 up"),
        ([*CSV, "c,c,1,nan,1"], r"x\.csv:8: 'nan' is no number"),
        ([*CSV, "c,c,1,1e999,1"], r"x\.csv:8: '1e999' is no number"),
        ([*CSV, "c,c,one,1,1"], r"x\.csv:8: 'one' is no number"),
        ([*CSV, "c,c,1,10"], r"x\.csv:8: has 4 cells"),
        ([*CSV, ",c,1,10,1"], r"x\.csv:8: names no run"),
        ([*CSV, 'c,"c,1,10,1'], r"x\.csv:8: unexpected end of data"),
        (
            [*CSV, "c,c,1,1,1e308"],
            r"x\.csv:8: '1e308' is beyond what an epoch takes: give 0, or 1e-09 to 1e\+15 \(s, J\)",
        ),
        ([*CSV, "c,c,1,1e160,1"], r"x\.csv:8: '1e160' is beyond"),
        ([*CSV, "c,c,1,1,1e-320"], r"x\.csv:8: '1e-320' is beyond"),
        ([*CSV, "c,c,inf,1,1"], r"x\.csv:8: 'inf' is no number"),
        ([*CSV, "d,c,1,10,0", "d,c,2,10,0"], r"x\.csv:8: run 'd' has used no energy in any epoch: leave it out"),
    ],
)
def test_a_bad_line_of_a_csv_file_is_named(lines, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        parse_csv(lines, "x.csv")


@pytest.mark.parametrize("name", ["dtjgp", "energydl_resumed"])
def test_recorded_runs_are_imported_whole(repository, name):
    path = repository.parent / "shared/data/epochs" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"recorded runs are not here: ../shared/data/epochs/{name}.csv")
    recorded = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            recorded[row["run"]].append((float(row["energy_j"]), row["config"]))
    runs = read_runs(path, None)
    names = [run.training_job[:-17] for run in runs]
    assert names == list(recorded)
    for run in runs:
        epochs = recorded[run.training_job[:-17]]
        assert run.joules == pytest.approx(sum(joules for joules, _ in epochs))
        assert (run.epochs_done, run.group) == (len(epochs), epochs[0][1])
        assert bool(run.scores) == (len(epochs) > 1)


BEGIN = datetime(2025, 3, 4, 10, 15, 0, tzinfo=timezone.utc)


class Log:
    """Writes the two logs of one run in the recorded format, with invented values."""

    def __init__(self, version="2.4.7", pue="1.58"):
        self.now = BEGIN
        self.standard, self.output, self.epochs = [], [], 0
        self.log(f"carbontracker version {version}")
        self.log(f"Only predicted and actual consumptions are multiplied by a PUE coefficient of {pue} (a survey).")

    def log(self, text):
        self.standard += f"{self.now:%Y-%m-%d %H:%M:%S} - {text}".split("\n")

    def say(self, text):
        self.output += f"{self.now:%Y-%m-%d %H:%M:%S} - CarbonTracker: {text}".split("\n")

    def components(self, text):
        line = f"The following components were found: {text}"
        self.log(line)
        self.log("Monitoring thread started.")
        self.say(line)

    def epoch(self, seconds, **powers):
        self.epochs += 1
        self.now += timedelta(seconds=seconds)
        self.log(f"Epoch {self.epochs}:")
        self.log(f"Duration: 0:{int(seconds) // 60:02d}:{seconds % 60:05.2f}")
        for component, power in powers.items():
            self.log(f"Average power usage (W) for {component}: {power}")

    def consumption(self, what, epochs, kilowatt_hours, grams):
        numbers = f"\n\tTime:\t0:01:00\n\tEnergy:\t{kilowatt_hours} kWh\n\tCO2eq:\t{grams} g"
        self.say(f"\n{what} consumption for {epochs} epoch(s):{numbers}\n\tThis is equivalent to:\n\t0.1 km by car")

    def save(self, folder, name="vgg_77_2025-03-04T101500Z"):
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}_carbontracker.log"
        path.write_text("\n".join(self.standard) + "\n")
        (folder / f"{name}_carbontracker_output.log").write_text("\n".join(self.output) + "\n")
        return path


def first_era():
    """Two GPUs and a CPU, a number each; the array of the second epoch is wrapped."""
    log = Log("1.2.5", "1.55")
    log.components("GPU with device(s) Tesla V100, Tesla V100. CPU with device(s) cpu:0.")
    log.epoch(20.5, gpu="[100.  200.5]", cpu="[50.]")
    log.consumption("Predicted", 3, "0.009", "1.8")
    log.epoch(10, gpu="[150.25\n 149.75]", cpu="None")
    log.epoch(12, gpu="[ 1.60e+02 140.0]", cpu="[60.]")
    log.consumption("Actual", 3, "0.0062", "1.24")
    log.log("Monitoring thread ended.")
    return log


def second_era():
    """Eight GPUs and two CPUs, one mean for each component; a model name with dots in it."""
    log = Log()
    gpus = ", ".join(["NVIDIA A100-SXM4-40GB rev. 2.1"] * 8)
    log.components(f"GPU with device(s) {gpus}. CPU with device(s) cpu:0, cpu:1.")
    log.epoch(60, gpu="None", cpu="55.0")
    log.consumption("Predicted", 5, "0.05", "15.0")
    log.epoch(50, gpu="400.0", cpu="60.0")
    log.epoch(50, gpu="390.0", cpu="70.0")
    return log


def imported(log, folder, group=None) -> EndedRun:
    (run,) = read_runs(log.save(folder), group, timezone.utc)
    return run


def test_version_1_logs_a_number_for_each_device(tmp_path):
    run = imported(first_era(), tmp_path / "vgg16")
    # The second epoch has no sample of the CPU: it counts at the power of the next.
    joules = [20.5 * 350.5, 10 * 360, 12 * 360]
    assert run.joules == pytest.approx(sum(joules))
    assert (run.epoch_joules, run.epoch_seconds) == (pytest.approx(3960), pytest.approx(11))
    assert (run.training_job, run.group) == ("vgg_77_2025-03-04T101500Z", "vgg16")
    assert (run.ending, run.epochs_planned, run.epochs_done, run.gpus) == ("finished", 3, 3, 2)
    assert run.started_seconds == BEGIN.timestamp() + 20 - 20.5  # the log's times are whole seconds
    assert run.ended_seconds == BEGIN.timestamp() + 42
    assert run.grams == pytest.approx(1.24 / 0.0062 * 1.55 * sum(joules) / 3.6e6)
    assert [score.epochs for score in run.scores] == [1, 2]


def test_version_2_logs_the_mean_of_the_devices(tmp_path):
    log = second_era()
    log.epoch(50, gpu="410.0", cpu="65.0")
    log.epoch(50, gpu="400.0", cpu="65.0")
    log.consumption("Actual", 5, "0.04", "12.0")
    run = imported(log, tmp_path / "llm", "my group")
    joules = [60 * (3200 + 110), 50 * (3200 + 120), 50 * (3120 + 140), 50 * (3280 + 130), 50 * (3200 + 130)]
    assert run.joules == pytest.approx(sum(joules))
    assert run.epoch_joules == pytest.approx(sum(joules[1:]) / 4)
    assert (run.ending, run.gpus, run.group) == ("finished", 8, "my group")
    assert run.grams == pytest.approx(300 * 1.58 * sum(joules) / 3.6e6)


def test_a_run_that_was_stopped_early(tmp_path):
    log = second_era()
    log.log("Training was interrupted before all 5 epochs were monitored.")
    log.consumption("Actual", 2, "0.02", "6.0")  # an epoch less than was measured, as stop() has it
    run = imported(log, tmp_path)
    assert (run.ending, run.epochs_planned, run.epochs_done) == ("stopped", 5, 3)
    assert run.scores


def test_without_a_prediction_the_plan_is_what_was_interrupted_or_done(tmp_path):
    log = Log()
    log.components("GPU with device(s) A100.")
    log.epoch(10, gpu="100.0")
    log.epoch(10, gpu="100.0")
    with pytest.raises(ConfigurationError, match=r"_carbontracker\.log: neither log says how many epochs"):
        imported(log, tmp_path)
    log.output += f"{BEGIN:%Y-%m-%d %H:%M:%S} - CarbonTracker: \nActual consumption:\n\tTime:\t0:00:20".split("\n")
    run = imported(log, tmp_path)
    assert (run.ending, run.epochs_planned, run.grams) == ("finished", 2, None)
    log.log("Training was interrupted before all 9 epochs were monitored.")
    run = imported(log, tmp_path)
    assert (run.ending, run.epochs_planned) == ("stopped", 9)


@pytest.mark.parametrize("left", [1, 2, 3], ids=["epoch", "duration", "one power"])
def test_a_killed_run_is_lost_and_its_half_logged_epoch_dropped(tmp_path, left):
    log = second_era()
    before = len(log.standard)
    log.epoch(50, gpu="400.0", cpu="60.0")
    del log.standard[before + left :]
    run = imported(log, tmp_path)
    assert (run.ending, run.epochs_planned, run.epochs_done, run.scores) == ("lost", 5, 3, ())
    assert run.grams is None
    assert run.joules == pytest.approx(60 * 3310 + 50 * 3320 + 50 * 3260)


def test_the_next_run_of_the_same_process_is_another_files(tmp_path):
    # Version 1 logs a second run of a process into the first one's files too.
    log, second = first_era(), first_era()
    log.standard += second.standard
    log.output += [line.replace("1.24", "99") for line in second.output]
    assert imported(log, tmp_path) == imported(first_era(), tmp_path)


@pytest.mark.parametrize(("energy", "grams"), [("0.000", "0.000"), ("nan", "nan"), ("0.01", "nan")])
def test_grams_are_unknown_where_the_log_does_not_know_the_intensity(tmp_path, energy, grams):
    log = second_era()
    log.consumption("Actual", 3, energy, grams)
    assert imported(log, tmp_path).grams is None


def test_times_are_of_this_machine_where_no_zone_is_given(tmp_path):
    path = first_era().save(tmp_path)
    (run,) = read_runs(path, None)
    assert run.ended_seconds == (BEGIN + timedelta(seconds=42)).replace(tzinfo=None).timestamp()
    (east,) = read_runs(path, None, timezone(timedelta(hours=2)))
    (utc,) = read_runs(path, None, timezone.utc)
    assert utc.ended_seconds - east.ended_seconds == 7200


def replaced(log, old, new):
    assert any(old in line for line in log.standard)
    log.standard = [line.replace(old, new) for line in log.standard]
    return log


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda log: replaced(log, "Epoch 2:", "Epoch 5:"), r":9: epoch 5 stands where epoch 2 belongs"),
        (lambda log: replaced(log, "0:00:10.00", "soon"), r":10: 'soon' is no duration such as 0:01:02\.50"),
        (lambda log: replaced(log, "[50.]", "[5O.]"), r":8: '\[5O\.\]' is no power in watts"),
        (lambda log: replaced(log, "[50.]", "[-50.]"), r":8: '\[-50\.\]' is no power in watts"),
        (lambda log: replaced(log, "for cpu: [50.]", "for tpu: [50.]"), r":8: is of a component that was not found"),
        (lambda log: log.standard.__delitem__(5), r":5: the epoch lacks its duration"),
        (lambda log: log.standard.insert(0, "hello"), r":1: begins with no time"),
        (lambda log: log.standard.clear(), r": names no components"),
        (lambda log: log.standard.__delitem__(slice(4, None)), r": holds no epoch"),
        (lambda log: log.standard.__delitem__(4), r":5: belongs to no epoch"),
        (lambda log: replaced(log, "-04 10:15:20", "-94 10:15:20"), r": '2025-03-94 10:15:20' is no time"),
        (lambda log: replaced(log, "0:00:10.00", f"{9**400}:00:10.00"), r":10: '\d{50}' is no duration"),
        (lambda log: replaced(log, "[50.]", "[1e300]"), r":8: '\[1e300\]' is no power in watts"),
        (
            lambda log: replaced(log, "Epoch 2:", f"Epoch {'9' * 5000}:"),
            r":9: epoch 9{50} stands where epoch 2 belongs",
        ),
        (
            lambda log: setattr(
                log, "output", [line.replace("for 3 epoch", f"for 1{'0' * 300} epoch") for line in log.output]
            ),
            r": 3 epochs were done, 1e\+300 planned",
        ),
        (
            lambda log: setattr(log, "output", [line.replace("for 3 epoch", "for 2 epoch") for line in log.output]),
            r": 3 epochs were done, 2 planned",
        ),
    ],
)
def test_a_bad_line_of_a_log_is_named(tmp_path, change, message):
    log = first_era()
    change(log)
    with pytest.raises(ConfigurationError, match=rf"_carbontracker\.log{message}"):
        imported(log, tmp_path)


def test_grams_beyond_all_bounds_are_unknown(tmp_path):
    log = replaced(first_era(), "of 1.55", f"of 1{'0' * 400}")
    assert imported(log, tmp_path).grams is None


@pytest.mark.parametrize(
    ("gpu", "message"), [("None", "no epoch has a sample of the power of gpu"), ("0.0", "could not read it")]
)
def test_power_that_was_never_read_is_no_energy(tmp_path, gpu, message):
    log = Log()
    log.components("GPU with device(s) A100.")
    log.epoch(1, gpu=gpu)
    log.epoch(1, gpu=gpu)
    log.consumption("Actual", 2, "0.000", "0.000")
    with pytest.raises(ConfigurationError, match=rf"_carbontracker\.log: .*{message}"):
        imported(log, tmp_path)


def test_a_pair_is_read_once_whichever_file_is_named(tmp_path):
    path = first_era().save(tmp_path)
    errors = tmp_path / "vgg_77_2025-03-04T101500Z_carbontracker_err.log"
    table = tmp_path / "x.csv"
    output = path.with_name(path.name.replace("tracker.log", "tracker_output.log"))
    assert recordings([errors, output, path, table]) == [path, table]
    assert recordings([output]) == [path]


def test_files_that_are_no_use_are_named(tmp_path):
    path = first_era().save(tmp_path)
    output = path.with_name(path.name.replace("tracker.log", "tracker_output.log"))
    output.unlink()
    with pytest.raises(ConfigurationError, match=r"_carbontracker_output\.log: No such file"):
        read_runs(path, None)
    shutil.copy(path, tmp_path / "notes.txt")
    with pytest.raises(ConfigurationError, match=r"notes\.txt: is neither \*\.csv nor \*_carbontracker\.log"):
        read_runs(tmp_path / "notes.txt", None)
    (tmp_path / "x.csv").write_bytes(b"run,\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"x\.csv: is no UTF-8 text"):
        read_runs(tmp_path / "x.csv", None)
