"""`carbon-exporter backtest intensity`: its figures, what it makes of bad files, and how good the forecast must be."""

import math
import random
import re
import time
from statistics import fmean

import pytest

from carbon_exporter import cli
from carbon_exporter.grid.backtest import FORECAST, backtest
from carbon_exporter.grid.series import read_series
from carbon_exporter.model import HOUR_SECONDS, ConfigurationError

FIRST = 438_288  # 2020-01-01T00
COLUMNS = ("lifecycle_g_per_kwh", "direct_g_per_kwh")
ZONES = ("CISO", "DE", "ES", "PJM")


def stamp(hour):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(hour * HOUR_SECONDS))


def rows(series):
    return [f"{stamp(hour)},{'' if grams is None else grams},1" for hour, grams in series.items()]


def written(path, lines, header="time,lifecycle_g_per_kwh,other"):
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def repeating(days):
    return {FIRST + i: 300 + 100 * math.sin(i / 24 * 2 * math.pi) for i in range(days * 24)}


def windy(days, seed=1):
    chance = random.Random(seed)
    wind, series = 0.0, {}
    for hour, grams in repeating(days).items():
        wind = 0.95 * wind + chance.gauss(0, 15)
        series[hour] = max(20.0, grams + wind)
    return series


# The figures.


def test_a_day_that_repeats_has_no_error_but_persistence_has():
    report = backtest(repeating(40))
    errors = {name: fmean(scores.hourly[24]) for name, scores in report.errors.items()}
    assert errors[FORECAST] == pytest.approx(0, abs=1e-9)
    assert errors["same hour yesterday"] == pytest.approx(0, abs=1e-9)
    assert errors["same hour last week"] == pytest.approx(0, abs=1e-9)
    assert errors["persistence"] > 0.2
    # The first origin has 14 days behind it, the last the 96 hours to come.
    assert report.origins == len(range(14 * 24, 40 * 24 - 95, 7))


def test_a_grid_without_carbon_is_forecast_without_error_by_all():
    report = backtest(dict.fromkeys(range(FIRST, FIRST + 40 * 24), 0.0))
    for errors in report.errors.values():
        assert {*errors.hourly[24], *errors.means[24], *errors.means[96]} == {0.0}
    bands = [report.hourly_band, *report.mean_bands.values()]
    assert {band.coverage for band in bands if band.inside} == {1.0}
    assert report.hourly_band.inside
    assert {*report.savings.realised, *report.savings.best} <= {0.0}


def test_the_baselines_are_what_their_names_say():
    series = {FIRST + i: float(i + 1) for i in range(15 * 24 + 96)}
    report = backtest(series, every_hours=1000)
    assert report.origins == 1
    actual = [14 * 24 + 1 + i for i in range(96)]

    def errors(forecast):
        return [abs(said - came) / came for said, came in zip(forecast, actual, strict=True)]

    expected = {
        "persistence": [14 * 24] * 96,
        "same hour yesterday": [13 * 24 + 1 + i % 24 for i in range(96)],
        "same hour last week": [7 * 24 + 1 + i for i in range(96)],
    }
    for name, forecast in expected.items():
        scores = report.errors[name]
        for hours in (1, 24, 96):
            assert scores.hourly[hours] == [pytest.approx(fmean(errors(forecast)[:hours]))]
        for hours in (24, 96):
            assert scores.means[hours] == [pytest.approx(abs(sum(forecast[:hours]) / sum(actual[:hours]) - 1))]


@pytest.mark.slow
def test_bands_hold_nine_times_in_ten_and_waits_save_what_they_say():
    report = backtest(windy(300), every_hours=14)
    assert 0.87 < report.hourly_band.coverage < 0.95
    assert 0.85 < report.mean_bands[24].coverage < 0.95
    assert 0.82 < report.mean_bands[96].coverage < 0.97
    assert report.mean_bands[24].width < report.hourly_band.width
    savings = report.savings
    assert fmean(savings.expected) == pytest.approx(fmean(savings.realised), abs=0.03)
    assert 0 < fmean(savings.realised) < fmean(savings.best)


def test_no_forecast_is_scored_where_what_came_is_not_known():
    series = windy(40)
    hole = FIRST + 30 * 24
    del series[hole]
    report = backtest(series)
    origins = range(14 * 24, 40 * 24 - 95, 7)
    touched = [origin for origin in origins if origin - 168 <= 30 * 24 < origin + 96]
    assert report.origins == len(origins) - len(touched)


def test_progress_ends_at_one():
    seen = []
    backtest(repeating(20), 1, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


# The command.


def test_the_command_prints_every_figure(tmp_path, capsys):
    path = written(tmp_path / "XX.csv", rows(windy(120)))
    assert cli.main(["backtest", "intensity", str(path), "--every", "21"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"XX\.csv, lifecycle_g_per_kwh: 117 forecasts, mean \d+ g/kWh", text)
    for name in (FORECAST, "persistence", "same hour yesterday", "same hour last week"):
        assert re.search(rf"{name} +(\d+\.\d\d +){{4}}\d+\.\d\d\n", text)
    for name in ("each of 24 h", "mean of 24 h", "mean of 96 h"):
        assert re.search(rf"{name} +\d+\.\d +\d+\.\d *\n", text)
    assert "best start of 8 h" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_short_file_says_that_its_bands_are_not_calibrated(tmp_path, capsys):
    path = written(tmp_path / "XX.csv", rows(windy(19)))
    assert cli.main(["backtest", "intensity", str(path), "--column", "lifecycle_g_per_kwh"]) == 0
    text = capsys.readouterr().out
    assert "mean of 96 h  not calibrated" in text
    assert "best start: not calibrated" in text


GOOD = windy(20)


def changed(index, line):
    lines = rows(GOOD)
    lines[index] = line
    return lines


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        (rows(GOOD), ["--column", "direct"], r":1: has no column 'direct'; it has: lifecycle_g_per_kwh, other; "),
        (rows(GOOD), ["--column", "time"], r":1: has no column 'time'"),
        (changed(5, rows(GOOD)[4]), [], r":7: '2020-01-01T04:00:00Z' stands twice"),
        (changed(5, rows(GOOD)[2]), [], r":7: '2020-01-01T02:00:00Z' stands after a later one"),
        (changed(5, "2020-01-01T05:30:00Z,1,1"), [], r":7: '2020-01-01T05:30:00Z' is no full hour"),
        (changed(5, "5 o'clock,1,1"), [], r":7: \"5 o'clock\" is no ISO 8601 time"),
        (changed(5, "2020-01-01T05:00:00Z,much,1"), [], r":7: 'much' is no number of grams"),
        (changed(5, "2020-01-01T05:00:00Z,nan,1"), [], r":7: 'nan' is no number of grams"),
        (changed(5, "2020-01-01T05:00:00Z,-1,1"), [], r":7: '-1' is no number of grams"),
        (changed(5, "2020-01-01T05:00:00Z,2001,1"), [], r":7: '2001' is no number of grams"),
        (rows(GOOD)[:431], [], r":432: ends with 431 known hours: give at least 432"),
        ([], [], r":1: ends with 0 known hours"),
        (rows(dict.fromkeys(range(FIRST, FIRST + 500))), [], r":501: ends with 0 known hours"),
        (rows({h: g for h, g in windy(40).items() if h % 5}), [], r": no week and the 4 days after it without a hole"),
        (rows(GOOD), ["--every", "0"], r"--every 0: give 1 to 1000"),
    ],
)
def test_a_bad_file_is_one_line_with_its_number_and_status_2(tmp_path, capsys, lines, arguments, message):
    path = written(tmp_path / "XX.csv", lines)
    assert cli.main(["backtest", "intensity", str(path), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    place = "" if "--every" in message else re.escape(str(path))
    assert re.match(rf"carbon-exporter backtest: {place}{message}", captured.err), captured.err


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe\x00", "is no UTF-8 text"), (b"time,lifecycle_g_per_kwh\n\0,1\n", "no ")]
)
def test_what_is_no_text_is_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "XX.csv"
    path.write_bytes(content)
    assert cli.main(["backtest", "intensity", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_file_that_is_not_there_or_a_folder_is_one_line(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ConfigurationError, match=re.escape(str(path))):
            read_series(path, "x")


def test_empty_cells_and_left_out_lines_are_holes_and_other_zones_of_time_are_read(tmp_path):
    series = dict(windy(20))
    lines = rows({hour: (None if hour == FIRST + 3 else grams) for hour, grams in series.items() if hour != FIRST + 7})
    lines[0] = lines[0].replace("2020-01-01T00:00:00Z", "2020-01-01T01:00:00+01:00")
    lines[1] = lines[1].replace("Z", "")
    read = read_series(written(tmp_path / "XX.csv", [*lines, ""]), "lifecycle_g_per_kwh")
    del series[FIRST + 3], series[FIRST + 7]
    assert read == pytest.approx(series)
    assert list(read) == sorted(read)


# The recorded series.


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("zone", ZONES)
def test_on_recorded_series_it_beats_yesterday_and_its_bands_hold(repository, zone, column):
    path = repository.parent / "shared" / "data" / "intensity" / f"{zone}.csv"
    if not path.exists():
        pytest.skip(f"no recorded series at {path}")
    report = backtest(read_series(path, column), every_hours=28 + 7)
    ours, yesterday = report.errors[FORECAST], report.errors["same hour yesterday"]
    for hours in (24, 96):
        assert fmean(ours.means[hours]) < 0.95 * fmean(yesterday.means[hours])
        assert fmean(ours.hourly[hours]) < 0.95 * fmean(yesterday.hourly[hours])
    assert 0.85 <= report.hourly_band.coverage <= 0.95
    assert 0.85 <= report.mean_bands[24].coverage <= 0.95
    assert report.mean_bands[96].coverage >= 0.8
    assert report.savings.band.coverage >= 0.8
    assert fmean(report.savings.realised) > 0.5 * fmean(report.savings.best)
