"""When a job is best started: the choice, what it is said to save, and how often that is right."""

import json
import math
import random
from dataclasses import fields
from statistics import fmean

import pytest

from carbon_exporter.grid.advice import Advice, advise
from carbon_exporter.grid.outlook import Outlook, past_replays
from carbon_exporter.grid.replay import Replay
from carbon_exporter.grid.statistical import curve
from carbon_exporter.model import HOUR_SECONDS

HOUR = 500_000
BEGIN = float(HOUR * HOUR_SECONDS)


def outlook(grams, replays=()):
    return Outlook(HOUR, (*grams, *[grams[-1]] * (96 - len(grams))), (), (), "someone", tuple(replays))


def ask(source, *, hours=2.0, kilowatts=3.0, slack_hours=10.0, now=BEGIN, pue=1.0):
    deadline = None if slack_hours is None else now + (hours + slack_hours) * 3600
    return advise(source, hours, kilowatts, deadline, now, pue)


VALLEY = [400.0] * 5 + [100.0] * 2 + [400.0] * 20


def test_the_cheapest_window_is_found_and_counted_with_pue():
    advice = ask(outlook(VALLEY), pue=1.5)
    assert advice.start_seconds == BEGIN + 5 * 3600
    assert advice.grams_now == pytest.approx(400 * 2 * 3 * 1.5)
    assert advice.grams_then == pytest.approx(100 * 2 * 3 * 1.5)
    assert advice.saving_grams == pytest.approx(300 * 2 * 3 * 1.5)
    assert advice.saving_ratio == pytest.approx(0.75)
    assert (advice.saving_ratio_low, advice.saving_ratio_high, advice.worthwhile) == (None, None, False)


def test_starts_are_now_and_full_hours():
    advice = ask(outlook(VALLEY), now=BEGIN + 1800)
    assert advice.start_seconds == BEGIN + 5 * 3600
    assert ask(outlook([100.0, 100.0, 400.0]), now=BEGIN + 1800, hours=1).start_seconds == BEGIN + 1800


def test_the_job_ends_by_the_deadline_to_the_second():
    assert ask(outlook(VALLEY), slack_hours=5).start_seconds == BEGIN + 5 * 3600
    just_missed = advise(outlook(VALLEY), 2.0, 3.0, BEGIN + 7 * 3600 - 1, BEGIN, 1.0)
    assert just_missed.start_seconds == BEGIN + 4 * 3600


def test_part_of_an_hour_counts_for_its_part():
    advice = ask(outlook([400.0, 100.0, 400.0]), hours=1.5, slack_hours=3)
    assert advice.start_seconds == BEGIN + 3600
    assert advice.grams_then == pytest.approx(3 * (100 + 200))


@pytest.mark.parametrize("minutes", [0, 20, 31])
def test_where_no_later_start_is_better_it_is_now(minutes):
    advice = ask(outlook([329.7] * 24), now=BEGIN + minutes * 60, slack_hours=80, hours=7.3)
    assert advice.start_seconds == BEGIN + minutes * 60
    assert (advice.saving_grams, advice.saving_ratio_low, advice.saving_ratio_high) == (0, 0, 0)
    assert not advice.worthwhile


def test_without_a_deadline_a_day_of_waiting_is_allowed():
    grams = [400.0] * 24 + [300.0] * 2 + [100.0] * 70
    advice = ask(outlook(grams), hours=1, slack_hours=None)
    assert advice.deadline_seconds == BEGIN + 25 * 3600
    assert advice.start_seconds == BEGIN + 24 * 3600


def test_no_start_lies_beyond_the_outlook():
    falling = [500.0 - hour for hour in range(96)]
    advice = ask(outlook(falling), hours=10, slack_hours=500)
    assert advice.start_seconds == BEGIN + 86 * 3600
    assert advice.deadline_seconds == BEGIN + 96 * 3600
    assert len(advice.grams_per_kilowatt_hour) == 96
    assert ask(outlook(falling), hours=10, slack_hours=math.inf).start_seconds == BEGIN + 86 * 3600


@pytest.mark.parametrize("minutes", [0, 20])
def test_a_job_as_long_as_the_outlook_starts_now(minutes):
    falling = [500.0 - hour for hour in range(96)]
    now = BEGIN + minutes * 60
    assert ask(outlook(falling), hours=96, slack_hours=None, now=now).start_seconds == now
    assert ask(outlook(falling), hours=95.9, slack_hours=None, now=now).start_seconds == now


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hours": 0.0}, "hours is 0"),
        ({"hours": -1.0}, "hours is -1"),
        ({"hours": 96.5}, "hours is 96.5: must be above 0 and at most 96"),
        ({"hours": math.nan}, "hours is nan"),
        ({"kilowatts": 0.0}, "kilowatts is 0"),
        ({"kilowatts": math.nan}, "kilowatts is nan"),
        ({"kilowatts": math.inf}, "kilowatts is inf"),
        ({"slack_hours": -0.1}, "deadline_seconds is before now and the job's 2 hours"),
        ({"slack_hours": math.nan}, "deadline_seconds is"),
    ],
)
def test_nonsense_is_one_line(changed, message):
    with pytest.raises(ValueError, match=message) as caught:
        ask(outlook(VALLEY), **changed)
    assert "\n" not in str(caught.value)


def test_the_answer_is_plain_json_with_every_attribute():
    document = json.loads(json.dumps(ask(outlook(VALLEY)).to_json()))
    assert set(document) == {field.name for field in fields(Advice)}
    assert document["first_hour_seconds"] == BEGIN
    assert document["grams_per_kilowatt_hour"] == VALLEY[:12]
    assert document["saving_ratio_low"] is None


# What it is said to save.


def choice(promised_then, came_then):
    """A past forecast of 200 now and less in hour 1; what came in hour 1."""
    return Replay((200.0, promised_then, *[300.0] * 94), (200.0, came_then, *[300.0] * 94))


def test_what_earlier_choices_were_disappointed_by_is_taken_off():
    # Each promised half, and saved a quarter: what came was 1.5 times the promise.
    advice = ask(outlook([200.0, 100.0, 300.0], [choice(100.0, 150.0)] * 40), hours=1)
    assert advice.saving_ratio == pytest.approx(0.25)
    assert advice.saving_ratio_low == pytest.approx(0.25)
    assert advice.grams_then == pytest.approx(0.75 * advice.grams_now)
    assert advice.worthwhile


def test_the_interval_spans_what_earlier_choices_saved():
    came = [90.0 + i for i in range(100)]
    random.Random(1).shuffle(came)
    advice = ask(outlook([200.0, 100.0, 300.0], [choice(100.0, grams) for grams in came]), hours=1)
    assert advice.saving_ratio_low == pytest.approx(1 - 186 / 200)
    assert advice.saving_ratio_high == pytest.approx(1 - 93 / 200)
    assert advice.saving_ratio_low < advice.saving_ratio < advice.saving_ratio_high


def test_a_saving_that_may_be_none_is_not_worthwhile():
    replays = [choice(100.0, 80.0)] * 40 + [choice(100.0, 210.0)] * 10
    advice = ask(outlook([200.0, 100.0, 300.0], replays), hours=1)
    assert advice.saving_ratio > 0 > advice.saving_ratio_low
    assert not advice.worthwhile


def test_where_such_choices_have_saved_nothing_it_is_now():
    advice = ask(outlook([200.0, 190.0, 300.0], [choice(190.0, 230.0)] * 40), hours=1)
    assert (advice.start_seconds, advice.saving_ratio, advice.worthwhile) == (BEGIN, 0, False)


def test_past_choices_to_start_at_once_say_nothing_of_a_wait():
    at_once = Replay((100.0, *[200.0] * 95), (100.0, *[200.0] * 95))
    advice = ask(outlook([200.0, 100.0, 300.0], [choice(100.0, 150.0)] * 40 + [at_once] * 100), hours=1)
    assert advice.saving_ratio == pytest.approx(0.25)
    few = ask(outlook([200.0, 100.0, 300.0], [choice(100.0, 150.0)] * 29 + [at_once] * 100), hours=1)
    assert few.saving_ratio_low is None
    assert few.saving_ratio == pytest.approx(0.5)


def test_what_is_not_over_is_not_counted():
    unfinished = Replay((200.0, 100.0, *[300.0] * 94), (200.0, *[None] * 95))
    assert ask(outlook([200.0, 100.0, 300.0], [unfinished] * 100), hours=1).saving_ratio_low is None


@pytest.mark.parametrize("seed", [1, 2])
def test_the_interval_holds_what_the_wait_saves_nine_times_in_ten(seed):
    chance = random.Random(seed)
    wind, series = 0.0, {}
    for hour in range(HOUR - 420 * 24, HOUR):
        wind = 0.95 * wind + chance.gauss(0, 15)
        series[hour] = max(20.0, 300 + 60 * math.sin(hour / 24 * 2 * math.pi) + wind)
    kept, inside, gains = {}, [], []
    for origin in range(HOUR - 350 * 24, HOUR - 96, 29):
        grams = curve(series, origin, origin, 96)
        source = Outlook(origin, grams, (), (), "statistical", tuple(past_replays(series, origin, 0, kept)))
        begin = origin * HOUR_SECONDS
        advice = advise(source, 4, 1, None, begin, 1)
        if advice.start_seconds == begin:
            continue
        start = int(advice.start_seconds) // HOUR_SECONDS
        now, then = (sum(series[first + i] for i in range(4)) for first in (origin, start))
        inside.append(advice.saving_ratio_low <= 1 - then / now <= advice.saving_ratio_high)
        gains.append((advice.saving_ratio, 1 - then / now))
    assert len(inside) > 150
    assert 0.84 < fmean(inside) <= 0.97
    assert fmean(said for said, _ in gains) == pytest.approx(fmean(came for _, came in gains), abs=0.02)


# What is known.


@pytest.mark.parametrize("hours", [1, 96])
def test_where_nothing_is_known_of_the_hours_ahead_no_saving_is_claimed_to_be_known(hours):
    flat = Outlook(HOUR, (330.0,) * 96, (), (), "static", ())
    advice = ask(flat, hours=hours)
    assert (advice.start_seconds, advice.saving_grams, advice.worthwhile) == (BEGIN, 0, False)
    assert (advice.saving_ratio_low, advice.saving_ratio_high) == (None, None)


@pytest.mark.parametrize("late", [1.0, 60.0])
def test_a_deadline_that_passed_while_it_was_asked_for_is_no_nonsense(late):
    advice = advise(outlook(VALLEY), 2.0, 3.0, BEGIN + 2 * 3600 - late, BEGIN, 1.0)
    assert (advice.start_seconds, advice.deadline_seconds) == (BEGIN, BEGIN + 2 * 3600)
    with pytest.raises(ValueError, match="deadline_seconds is before now"):
        advise(outlook(VALLEY), 2.0, 3.0, BEGIN + 2 * 3600 - 61, BEGIN, 1.0)


@pytest.mark.parametrize("pue", [0.99, 10.1, math.nan, -1.0])
def test_no_pue_is_below_1_or_above_10(pue):
    with pytest.raises(ValueError, match=r"pue is .*: must be 1 to 10"):
        ask(outlook(VALLEY), pue=pue)


def test_the_example_of_the_documents(repository):
    disappointments = [-0.15] * 4 + [0.10] * 4 + [(-3 + 0.6 - 0.4) / 92] * 92  # their mean is -0.03
    replays = [choice(100.0, 100.0 / math.exp(score)) for score in disappointments]
    advice = ask(outlook([400.0] * 8 + [300.0] * 8 + [400.0] * 80, []), hours=8, kilowatts=3, pue=1.2)
    assert advice.grams_now == pytest.approx(11_520)
    advice = ask(outlook([400.0, 300.0, 400.0], replays), hours=1, kilowatts=24, pue=1.2)
    told = [
        f"{100 * ratio:.1f} %" for ratio in (advice.saving_ratio, advice.saving_ratio_low, advice.saving_ratio_high)
    ]
    text = (repository / "docs" / "intensity.md").read_text().partition("## Best hours")[2]
    example = text.partition("**Example.**")[2].partition("\n\n")[0]
    assert told == ["22.7 %", "12.9 %", "32.1 %"]
    numbers = [*told, f"{advice.grams_now / 1000:.1f} kg", f"{advice.saving_grams / 1000:.1f} kg", "0.03 less", "0.15"]
    assert [number for number in numbers if number not in example] == []
