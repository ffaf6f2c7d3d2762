"""The running service learns: ended runs, their group's forecasts, zones, GPUs, units; on a scripted engine."""

import pytest
from grid_scripts import HOUR, T0, Clockwork, ScriptedProvider, hourly
from test_forecast_service import Cluster, outcome_of, serving, values_of

from carbon_exporter import metrics
from carbon_exporter.forecast.history import History
from carbon_exporter.forecast.promql import Client
from carbon_exporter.forecast.service import Service
from carbon_exporter.forecast.settings import Settings, open_session
from carbon_exporter.grid.grid import Grid


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def make_service(cluster, tmp_path):
    with serving(cluster.answer) as url:
        made = []

        def make(grid=None, **settings):
            settings.setdefault("history_file", tmp_path / "history.sqlite")
            chosen = Settings(prometheus_url=url, **settings)
            # On the clock of the script: a grid that is looked at with an earlier one takes it for set back.
            made.append(Service(chosen, Client(url, open_session(chosen, {})), clock=lambda: T0, grid=grid))
            return made[-1]

        yield make
        for service in made:
            service._learning.close()
            service._client._session.close()


def step(cluster, job, now, started, *, watts=100.0, planned=10.0, group="bert", **more):
    """A job of 100 W in epochs of 60 s, scraped and pushed at `now`."""
    done = min(planned, (now - started) // 60)
    joules = watts * min(now - started, 60 * planned)
    start = {metrics.TRAINING_START.name: started}
    cluster.step(now, job, joules=joules, epochs=done, end=started + 60 * done, planned=planned, **start, **more)
    cluster.groups[job] = group


def run(cluster, service, job, started, upto=10, **more):
    """Polled every 30 s up to 30 s after epoch `upto`; the last families."""
    for now in range(started + 30, started + 60 * upto + 31, 30):
        step(cluster, job, now, started, **more)
        families = service.poll(now)
    return families


def finish(cluster, service, job, started, upto=10, **more):
    """A run that ends as intended after `upto` epochs, is recorded, and is gone."""
    run(cluster, service, job, started, upto, **more)
    end = started + 60 * upto
    step(cluster, job, end + 30, started, **more)
    cluster.pushed[job][metrics.TRAINING_FINISHED.name] = float(end)
    cluster.scraped[job] = end + 40
    service.poll(end + 40)
    families = service.poll(end + 400)
    for known in (cluster.pushed, cluster.joules, cluster.groups):
        known.pop(job)
    return families


def kept(tmp_path):
    history = History(tmp_path / "history.sqlite")
    runs = history.newest(100)
    history.close()
    return runs


def test_a_finished_run_is_recorded_with_what_it_was(cluster, make_service, tmp_path):
    service = make_service()
    cluster.gpus["a"] = 8.0
    families = finish(cluster, service, "a", 1000)
    (ended,) = kept(tmp_path)
    assert (ended.training_job, ended.group, ended.ending) == ("a", "bert", "finished")
    assert (ended.started_seconds, ended.ended_seconds) == (1000, 1600)
    assert (ended.epochs_planned, ended.epochs_done, ended.gpus) == (10, 10, 8)
    assert (ended.joules, ended.grams) == (60_000, 60)
    assert (ended.epoch_joules, ended.epoch_seconds) == pytest.approx((6000, 60))
    assert [score.epochs for score in ended.scores] == [1, 2, 3, 5]
    assert values_of(families, metrics.FORECAST_HISTORY_RUNS) == {("finished",): 1}
    assert values_of(families, metrics.FORECAST_HISTORY_UNSAVED) == {(): 0}
    assert {row.epochs for row in service.accuracy()} == {1, 2, 3, 5}


def test_a_run_stopped_early_and_a_lost_one_are_recorded_as_such(cluster, make_service, tmp_path):
    service = make_service()
    finish(cluster, service, "early", 1000, upto=4)
    run(cluster, service, "killed", 3000, upto=5)
    del cluster.joules["killed"]  # its pushes stay in the Pushgateway
    for now in (3360, 3700, 7300, 7500):
        families = service.poll(now)
    early, killed = kept(tmp_path)
    assert (early.ending, early.epochs_done, early.epochs_planned) == ("stopped", 4, 10)
    assert early.scores != ()
    assert (killed.ending, killed.epochs_done, killed.ended_seconds) == ("lost", 5, 3360)
    assert killed.scores == ()
    assert outcome_of(families) == {"stale_push"}
    assert values_of(families, metrics.FORECAST_HISTORY_RUNS) == {("lost",): 1, ("stopped",): 1}
    assert service.accuracy() == ()


def test_while_the_engine_is_away_nothing_is_lost(cluster, make_service, tmp_path):
    service = make_service()
    run(cluster, service, "a", 1000, upto=3)
    cluster.warnings = ["store-2 is away"]
    service.poll(5000)
    service.poll(20_000)
    cluster.warnings = []
    cluster.joules.pop("a")
    service.poll(20_030)  # the engine is back, the nodes are not scraped yet
    assert kept(tmp_path) == []
    cluster.history = []
    step(cluster, "a", 20_060, 1000, planned=1000.0)
    assert outcome_of(service.poll(20_060)) == {"forecast"}


def test_the_next_run_is_forecast_from_its_group_before_its_first_epoch(cluster, make_service):
    service = make_service()
    families = run(cluster, service, "new", 500, upto=0)
    assert values_of(families, metrics.FORECAST_ENERGY) == {}
    cluster.pushed.clear(), cluster.joules.clear()
    for number in range(12):
        finish(cluster, service, f"run-{number}", 1000 + 2000 * number)
    started = 30_000
    step(cluster, "next", started + 30, started)
    families = service.poll(started + 30)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == {("next",): pytest.approx(60_000, rel=0.01)}
    ends = values_of(families, metrics.FORECAST_END, quantile="0.5")
    assert ends == {("next",): pytest.approx(started + 600, abs=10)}
    assert values_of(families, metrics.FORECAST_INFO, training_job="next", basis="group") != {}
    (view,) = [view for view in service.views() if view.training_job == "next"]
    assert view.warnings[0].startswith("Its first epoch is not done yet")
    families = run(cluster, service, "next", started, upto=3)
    assert values_of(families, metrics.FORECAST_INFO, training_job="next", basis="group") != {}
    step(cluster, "other", started + 240, started, group="other")
    families = service.poll(started + 240)
    assert values_of(families, metrics.FORECAST_ENERGY, training_job="other") == {}


def test_a_restart_takes_up_running_jobs_and_knows_ended_ones(cluster, make_service, tmp_path):
    service = make_service()
    for number in range(11):
        finish(cluster, service, f"run-{number}", 1000 + 2000 * number)
    started = 30_000
    before = run(cluster, service, "next", started, upto=4)
    accuracy = service.accuracy()
    service._learning.close()
    cluster.history = history_of("next", started, started + 270)
    again = make_service()
    after = again.poll(started + 270)
    for family in (metrics.FORECAST_ENERGY, metrics.FORECAST_END, metrics.FORECAST_EPOCH_ENERGY):
        assert values_of(after, family) == {k: pytest.approx(v, rel=1e-3) for k, v in values_of(before, family).items()}
    assert values_of(after, metrics.FORECAST_INFO) == values_of(before, metrics.FORECAST_INFO)
    assert again.accuracy() == accuracy


def history_of(job, started, now, behind=0.0, resumed=0):
    """What the engine's range query tells of a job."""
    seconds = range(started, now + 1, 30)

    def done(t):
        return min(10, (t - started) // 60)

    names = {
        "": lambda t: 100 * min(600, t - started),
        metrics.EPOCHS_COMPLETED.name: lambda t: resumed + done(t),
        metrics.EPOCH_END.name: lambda t: started + done(t) * 60 - behind,
        metrics.PUSH_TIME: lambda t: started + done(t) * 60,
    }
    return [
        {
            "metric": {"training_job": job, **({"__name__": name} if name else {})},
            "values": [[t, repr(float(value(t)))] for t in seconds],
        }
        for name, value in names.items()
    ]


@pytest.mark.parametrize("killed", [True, False])
def test_a_restart_goes_on_with_what_the_engine_does_not_know(cluster, make_service, killed):
    """A node that has gone, other GPUs since, a resumed run: all of it is on file, and the engine is not asked."""
    service = make_service()
    started = 30_000
    cluster.gpus["a"] = 8.0
    cluster.elsewhere["a", "n1"] = 5000.0
    for now in range(started + 30, started + 271, 30):
        step(cluster, "a", now, started, planned=100.0)
        if now > started + 150:
            cluster.elsewhere.clear()
            cluster.gpus["a"] = 4.0
        before = service.poll(now)
    if killed:
        service._learning.close()  # as the file is: nothing more is written
    else:
        service._fleet.close(now)
    cluster.has_past = False
    cluster.queries.clear()
    after = make_service().poll(now)
    assert len(cluster.queries) == 5
    for family in (metrics.FORECAST_ENERGY, metrics.FORECAST_END, metrics.FORECAST_EMISSIONS, metrics.FORECAST_EPOCHS):
        assert values_of(after, family) == values_of(before, family) != {}
    assert values_of(after, metrics.FORECAST_ENERGY, quantile="0.5")["a",] > 100 * 6000


@pytest.mark.parametrize("state", ["", "{}", '{"version": 1}', '{"version": 99}', "[]", '{"version": 1, "track": 3}'])
def test_a_state_that_is_no_use_is_as_none(cluster, make_service, tmp_path, state):
    history = History(tmp_path / "history.sqlite")
    history.keep_running({"a": state}, {"a"})
    history.close()
    started = 30_000
    cluster.history = history_of("a", started, started + 250)
    step(cluster, "a", started + 250, started)
    families = make_service().poll(started + 250)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == {("a",): pytest.approx(60_000, rel=0.01)}


def test_a_job_that_was_gone_as_the_service_was_away_is_recorded_as_lost(cluster, make_service, tmp_path):
    service = make_service()
    run(cluster, service, "a", 1000, upto=3)
    service._fleet.close(1210)
    cluster.pushed.clear()
    cluster.joules.clear()
    again = make_service()
    for now in (9000, 12_000, 12_700):
        again.poll(now)
    (ended,) = kept(tmp_path)
    assert (ended.ending, ended.epochs_done, ended.ended_seconds) == ("lost", 3, 1210)
    assert again._learning.open().running() == []


@pytest.mark.parametrize(("upto", "ending"), [(3, "lost"), (10, "finished")])
def test_a_run_that_the_next_one_of_its_name_replaces_is_on_record(cluster, make_service, tmp_path, upto, ending):
    service = make_service()
    run(cluster, service, "a", 1000, upto=upto)
    again = 1000 + 60 * upto + 35
    step(cluster, "a", again + 25, again)
    cluster.joules["a"] = 100.0 * (again + 25 - 1000)
    service.poll(again + 25)
    (ended,) = kept(tmp_path)
    assert (ended.ending, ended.epochs_done, ended.started_seconds) == (ending, upto, 1000)


def test_a_run_that_had_ended_before_a_restart_is_on_record_as_it_ended(cluster, make_service, tmp_path):
    service = make_service()
    run(cluster, service, "a", 1000, upto=4)
    step(cluster, "a", 1270, 1000)
    cluster.pushed["a"][metrics.TRAINING_FINISHED.name] = 1240.0
    service.poll(1280)
    service._learning.close()  # killed
    cluster.pushed.clear()
    cluster.joules.clear()
    make_service().poll(1700)
    assert [(ended.ending, ended.epochs_done) for ended in kept(tmp_path)] == [("stopped", 4)]


def test_a_run_under_a_name_whose_counter_goes_on_is_recorded_with_its_own_joules(cluster, make_service, tmp_path):
    service = make_service()
    for now in range(1030, 1631, 30):
        step(cluster, "a", now, 1000)
        cluster.joules["a"] += 5000.0
        cluster.history = [{"metric": {"training_job": "a"}, "values": [[970, "2000"], [1000, "5000"]]}]
        service.poll(now)
    cluster.pushed["a"][metrics.TRAINING_FINISHED.name] = 1600.0
    service.poll(1660)
    service.poll(2000)
    (ended,) = kept(tmp_path)
    assert (ended.joules, ended.grams) == (60_000, pytest.approx(55.4, rel=0.01))


def test_a_job_taken_for_lost_that_comes_back_ends_as_it_does(cluster, make_service, tmp_path):
    service = make_service()
    run(cluster, service, "a", 1000, upto=3)
    away = dict(cluster.joules), dict(cluster.pushed)
    cluster.joules.clear()
    for now in (1240, 5000, 9000):
        service.poll(now)
    assert [ended.ending for ended in kept(tmp_path)] == ["lost"]
    cluster.joules, cluster.pushed = away
    finish(cluster, service, "a", 1000)
    (ended,) = kept(tmp_path)
    assert (ended.ending, ended.epochs_done) == ("finished", 10)


def test_a_scrape_of_the_pushgateway_that_failed_ends_no_forecast(cluster, make_service):
    service = make_service()
    run(cluster, service, "a", 1000, upto=3)
    pushed, cluster.pushed = cluster.pushed, {}
    assert outcome_of(service.poll(1240)) == {"forecast"}
    assert outcome_of(service.poll(1800)) == {"no_epochs"}
    cluster.pushed = pushed


@pytest.mark.parametrize("behind", [60, 3000, -90, -1_000_000_000, 1_700_000_000], ids=str)
def test_a_job_whose_clock_is_off_is_forecast_like_any_other(cluster, make_service, tmp_path, caplog, behind):
    service = make_service()
    started = 1_700_000_000
    for seconds in range(30, 660, 30):
        now, done = started + seconds, min(10, seconds // 60)
        pushed = {metrics.TRAINING_START.name: started - behind, metrics.PUSH_TIME: started + 60 * done}
        if seconds > 600:
            pushed[metrics.TRAINING_FINISHED.name] = started + 600 - behind
        joules = 100.0 * min(seconds, 600)
        cluster.history = history_of("a", started, now, behind)
        cluster.step(now, "a", joules=joules, epochs=done, end=started + 60 * done - behind, **pushed)
        families = service.poll(now)
        if seconds == 240:
            (_, median, _) = values_of(families, metrics.FORECAST_ENERGY).values()
            assert median == pytest.approx(60_000, rel=0.01)
            ends = values_of(families, metrics.FORECAST_END, quantile="0.5")
            assert ends == {("a",): pytest.approx(started + 600, abs=10)}
            assert values_of(families, metrics.FORECAST_WARNINGS) == {("clock_skewed",): 1, ("kind_never_seen",): 1}
            assert "set it" in service.views()[0].warnings[1]
    told = [line for line in caplog.messages if "clock_skewed" in line]
    assert len(told) == 1
    service.poll(started + 1000)
    (ended,) = kept(tmp_path)
    assert ended.started_seconds == started - behind
    assert ended.ended_seconds == pytest.approx(started + 600, abs=1)
    assert (ended.epoch_joules, ended.epoch_seconds) == pytest.approx((6000, 60), rel=1e-6)


def test_a_resumed_job_goes_on_where_it_was_after_a_restart(cluster, make_service):
    started, now = 30_000, 30_250
    step(cluster, "a", now, started, planned=130.0)
    cluster.pushed["a"][metrics.EPOCHS_COMPLETED.name] = 94.0
    cluster.pushed["a"][metrics.EPOCHS_RESUMED.name] = 90.0
    cluster.history = history_of("a", started, now, resumed=90)
    families = make_service().poll(now)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == {("a",): pytest.approx(240_000, rel=0.01)}
    assert values_of(families, metrics.FORECAST_EPOCHS) == {("a",): 4}


def test_a_past_that_cannot_be_asked_for_is_asked_for_again(cluster, make_service):
    service = make_service()
    started = 30_000
    cluster.history = history_of("a", started, started + 250)
    cluster.has_past = False
    step(cluster, "a", started + 250, started)
    assert values_of(service.poll(started + 250), metrics.FORECAST_ENERGY) == {}
    cluster.has_past = True
    step(cluster, "a", started + 280, started)
    families = service.poll(started + 280)
    assert values_of(families, metrics.FORECAST_ENERGY, quantile="0.5") == {("a",): pytest.approx(60_000, rel=0.01)}
    cluster.queries.clear()
    service.poll(started + 310)
    assert len(cluster.queries) == 5


def test_a_run_that_ended_as_the_service_was_away_is_recorded_once(cluster, make_service, tmp_path):
    service = make_service()
    step(cluster, "a", 1600, 1000)
    cluster.pushed["a"][metrics.TRAINING_FINISHED.name] = 1600.0
    cluster.scraped["a"] = 1640
    cluster.history = history_of("a", 1000, 1630)
    service.poll(1640)
    service.poll(2000)
    (ended,) = kept(tmp_path)
    assert (ended.ending, ended.epochs_done, ended.joules) == ("finished", 10, 60_000)
    service._learning.close()
    again = make_service()
    asked = len(cluster.queries)
    again.poll(2030)
    again.poll(3000)
    assert len(cluster.queries) == asked + 10  # its past is not asked for again
    assert len(kept(tmp_path)) == 1


def test_where_the_group_stops_early_two_ends_are_forecast(cluster, make_service):
    service = make_service()
    for number in range(8):
        finish(cluster, service, f"run-{number}", 1000 + 2000 * number, upto=10 if number % 2 else 5)
    families = run(cluster, service, "next", 30_000, upto=3)
    planned = values_of(families, metrics.FORECAST_ENERGY, training_job="next")
    expected = values_of(families, metrics.FORECAST_EXPECTED_ENERGY, training_job="next")
    assert expected["0.05",] == pytest.approx(33_000, rel=0.12)
    assert expected["0.95",] == pytest.approx(planned["0.95",], rel=0.1)
    grams = values_of(families, metrics.FORECAST_EXPECTED_EMISSIONS, training_job="next")
    assert grams == {quantile: pytest.approx(joules / 1000, rel=1e-3) for quantile, joules in expected.items()}
    (view,) = [view for view in service.views() if view.training_job == "next"]
    assert view.expected_joules.low == expected["0.05",]
    assert view.expected_grams.low == grams["0.05",]


def test_no_expected_end_where_nothing_stops_early(cluster, make_service):
    service = make_service()
    for number in range(6):
        finish(cluster, service, f"run-{number}", 1000 + 2000 * number)
    families = run(cluster, service, "next", 30_000, upto=3)
    assert values_of(families, metrics.FORECAST_EXPECTED_ENERGY) == {}
    assert values_of(families, metrics.FORECAST_EXPECTED_EMISSIONS) == {}


def test_other_gpus_begin_a_new_level(cluster, make_service):
    service = make_service()
    cluster.gpus["a"] = 8.0
    run(cluster, service, "a", 1000, upto=5)
    joules = cluster.joules["a"]
    cluster.gpus["a"] = 16.0
    for now in range(1360, 1541, 30):
        done = (now - 1000) // 60
        cluster.step(now, "a", joules=joules + 300.0 * (now - 1330), epochs=done, end=1000.0 + 60 * done)
        families = service.poll(now)
    # From epoch 6 on an epoch takes 18 kJ, not 6.
    assert values_of(families, metrics.FORECAST_EPOCH_ENERGY) == {("a",): pytest.approx(18_000, rel=0.05)}


def test_another_power_limit_begins_a_new_level(cluster, make_service):
    service = make_service()
    cluster.gpus["a"], cluster.limits["a"] = 8.0, 8 * 700.0
    run(cluster, service, "a", 1000, upto=5)
    joules = cluster.joules["a"]
    cluster.limits["a"] = 8 * 400.0
    for now in range(1360, 1541, 30):
        done = (now - 1000) // 60
        cluster.step(now, "a", joules=joules + 60.0 * (now - 1330), epochs=done, end=1000.0 + 60 * done)
        families = service.poll(now)
    # From epoch 6 on an epoch takes 3.6 kJ, not 6.
    assert values_of(families, metrics.FORECAST_EPOCH_ENERGY) == {("a",): pytest.approx(3600, rel=0.05)}


@pytest.mark.parametrize("moves", [True, False], ids=["to another node", "under another address of the same node"])
def test_a_job_that_moves_keeps_its_forecast(cluster, make_service, caplog, moves):
    """100 W all the time; after 330 s another node tells, at first beside the old one, whose value stands still."""
    service = make_service()
    run(cluster, service, "a", 1000, upto=5)
    for now in range(1360, 1541, 30):
        step(cluster, "a", now, 1000)
        spent = cluster.joules.pop("a")
        cluster.elsewhere["a", "n2"] = spent - 33_000.0 if moves else spent
        if now < 1420:
            cluster.joules["a"] = 33_000.0
        families = service.poll(now)
        (low, median, high) = values_of(families, metrics.FORECAST_ENERGY).values()
        assert low <= 60_000 <= high
        assert median == pytest.approx(60_000, rel=0.01)
    assert [line for line in caplog.messages if "'a'" in line] == []


def test_while_no_node_can_be_scraped_no_energy_is_placed(cluster, make_service):
    """The engine repeats for 150 s what was told last, and the node then tells all at once."""
    service = make_service()
    for now in range(1030, 1631, 30):
        step(cluster, "a", now, 1000, planned=20.0)
        if 1210 <= now < 1360:
            cluster.joules["a"] = 18_000.0
            del cluster.scraped["a"]
        families = service.poll(now)
    assert values_of(families, metrics.FORECAST_EPOCH_ENERGY) == {("a",): pytest.approx(6000, rel=0.01)}
    (view,) = service.views()
    assert [joules / 6000 for _, _, joules in view.epochs] == pytest.approx([*range(11)], abs=0.01)


def test_the_last_epoch_of_a_run_whose_node_went_with_it_is_counted(cluster, make_service, tmp_path):
    service = make_service()
    run(cluster, service, "a", 1000, upto=9)
    step(cluster, "a", 1590, 1000)
    service.poll(1590)
    cluster.pushed["a"] |= {metrics.EPOCHS_COMPLETED.name: 10.0, metrics.EPOCH_END.name: 1600.0}
    cluster.pushed["a"][metrics.TRAINING_FINISHED.name] = 1600.0
    del cluster.scraped["a"]
    service.poll(1620)
    service.poll(2000)
    (ended,) = kept(tmp_path)
    assert (ended.ending, ended.epochs_done, ended.joules) == ("finished", 10, 59_000)


def test_joules_that_cannot_be_are_no_forecast(cluster, make_service, caplog):
    service = make_service()
    run(cluster, service, "a", 1000, upto=3)
    for wrong in (-5.0, 1.7e308):
        step(cluster, "a", 1240, 1000)
        cluster.elsewhere["a", "n2"] = wrong
        assert outcome_of(service.poll(1240)) == {"invalid_value"}
    assert len([line for line in caplog.messages if "a node tells joules" in line]) == 1


def test_a_node_whose_joules_fall_is_counted_on_and_said(cluster, make_service, tmp_path, caplog):
    service = make_service()
    run(cluster, service, "a", 1000, upto=5)
    for now in range(1360, 1541, 30):
        step(cluster, "a", now, 1000)
        cluster.joules["a"] -= 33_000.0
        families = service.poll(now)
    (low, median, high) = values_of(families, metrics.FORECAST_ENERGY).values()
    assert low <= 60_000 <= high
    assert median == pytest.approx(60_000, rel=0.01)
    assert len([line for line in caplog.messages if "energy_set_back" in line]) == 1


def grid_of(grams):
    """A grid whose provider has told the last 40 days of DE, and the next 96 hours, by hour from T0."""
    past, future = ([grams(hour) for hour in hours] for hours in (range(-40 * 24, 0), range(96)))
    provider = ScriptedProvider(
        hourly(T0 - 40 * 24 * HOUR, *past), hourly(T0, *future), horizon_seconds=96 * HOUR, fresh_seconds=12 * HOUR
    )
    clockwork = Clockwork(provider, now=T0 - 600)
    clockwork.run(600)
    return Grid([clockwork.zone], [])


def along_the_grid(cluster, service, places, basis="operational"):
    cluster.places = places
    cluster.watts = {("a", node): 50.0 for node in places}
    started = T0 - 200
    for now in range(started + 30, T0 + 1, 10):
        done = (now - started) // 60
        cluster.step(now, "a", joules=100.0 * (now - started), epochs=done, end=started + 60 * done, planned=600.0,
                     **{metrics.TRAINING_START.name: float(started)})  # fmt: skip
        cluster.grams = {("a", basis): 0.1 * (now - started)}
        families = service.poll(now)
    return families


def test_grams_follow_the_outlook_of_the_zones_that_the_job_runs_in(cluster, make_service):
    service = make_service(grid_of(lambda hour: 100.0 if hour % 24 < 5 else 700.0))
    families = along_the_grid(cluster, service, {"n1": ("DE", 1.2), "n2": ("DE", 1.2)})
    (energy,) = values_of(families, metrics.FORECAST_ENERGY, quantile="0.5").values()
    (end,) = values_of(families, metrics.FORECAST_END, quantile="0.5").values()
    hours = (end - T0) / HOUR
    mean = (5 * 100 + (hours - 5) * 700) / hours
    expected = cluster.grams["a", "operational"] + (energy - cluster.joules["a"]) / 3.6e6 * 1.2 * mean
    found = values_of(families, metrics.FORECAST_EMISSIONS, training_job="a")
    assert found["0.5",] == pytest.approx(expected, rel=0.01)
    assert found["0.05",] < found["0.5",] < found["0.95",]


@pytest.mark.parametrize(
    "places",
    [{"n1": ("DE", 1.2), "n2": ("FR", 1.2)}, {"n1": ("DE", 1.2), "n2": ("", 1.2)}],
    ids=["a zone that is not served", "a node without a zone"],
)
def test_where_a_zone_has_no_outlook_the_rate_of_late_holds(cluster, make_service, places):
    service = make_service(grid_of(lambda _: 400.0))
    families = along_the_grid(cluster, service, places)
    (energy,) = values_of(families, metrics.FORECAST_ENERGY, quantile="0.5").values()
    grams = values_of(families, metrics.FORECAST_EMISSIONS, quantile="0.5")
    assert grams == {("a",): pytest.approx(energy / 1000, rel=0.01)}


@pytest.mark.parametrize(("basis", "share"), [("lifecycle", 1.0), ("operational", 0.48 / 3.6), ("", 0.48 / 3.6)])
def test_grams_of_another_basis_are_not_mixed_in(cluster, make_service, basis, share):
    service = make_service(grid_of(lambda _: 400.0))
    families = along_the_grid(cluster, service, {"n1": ("DE", 1.2)}, basis)
    (energy,) = values_of(families, metrics.FORECAST_ENERGY, quantile="0.5").values()
    (grams,) = values_of(families, metrics.FORECAST_EMISSIONS, quantile="0.5").values()
    assert grams == pytest.approx(energy / 1000 * share, rel=0.05)


@pytest.mark.parametrize(
    ("step_epochs", "planned", "outcome"),
    [(50, 120, "unit_mismatch"), (50, 160, "forecast"), (9, 20, "forecast"), (2, 5, "forecast")],
)
def test_pushes_in_another_unit_are_said_once_and_the_forecast_stays(
    cluster, make_service, caplog, step_epochs, planned, outcome
):
    service = make_service()
    for now in range(1000, 1500, 30):
        pushes = (now - 1000) // 200
        cluster.step(
            now, joules=100.0 * (now - 1000), epochs=float(step_epochs * pushes), end=1000.0 + 200 * pushes,
            planned=float(planned),
        )  # fmt: skip
        families = service.poll(now)
    assert outcome_of(families) == {outcome}
    assert len(values_of(families, metrics.FORECAST_ENERGY)) == 3
    told = [record.getMessage() for record in caplog.records if "unit_mismatch" in record.getMessage()]
    assert len(told) == (outcome == "unit_mismatch")


def test_epochs_shorter_than_a_poll_are_no_other_unit(cluster, make_service):
    service = make_service()
    for now in range(1000, 1091, 30):
        cluster.step(now, joules=100.0 * (now - 1000), epochs=float(now - 1000), end=float(now), planned=100.0)
        families = service.poll(now)
    assert outcome_of(families) == {"forecast"}


def test_views_are_made_once_a_poll_and_say_what_is_doubtful(cluster, make_service):
    service = make_service()
    run(cluster, service, "a", 1000, upto=4)
    cluster.pushed["a"][metrics.EMISSIONS_BUDGET.name] = 55.0
    service.poll(1280)
    (view,) = service.views()
    assert service.views() is service.views()
    assert (view.training_job, view.group, view.outcome) == ("a", "bert", "forecast")
    assert (view.joules, view.grams, view.emissions_basis, view.budget_grams) == (27_000, 27, "lifecycle", 55)
    assert view.epochs == tuple((float(k), 1000 + 60.0 * k, 6000.0 * k) for k in range(5))
    assert view.forecast.joules.median == pytest.approx(60_000, rel=2e-3)
    assert view.warnings == (
        "No run of its group has ended yet: how wrong its forecast can be is not known.",
    )  # fmt: skip
    cluster.pushed["a"][metrics.EPOCHS_COMPLETED.name] = 11.0
    service.poll(1310)
    (view,) = service.views()
    assert view.forecast is None
    assert view.warnings[0].startswith("epochs_above_planned: it has done more epochs than it planned")


def test_a_poll_is_at_most_ten_queries_whatever_is_there(cluster, make_service):
    service = make_service(grid_of(lambda _: 400.0))
    for number in range(20):
        step(cluster, f"job-{number}", 1030, 1000)
        cluster.gpus[f"job-{number}"] = 8.0
    service.poll(1030)
    cluster.queries.clear()
    service.poll(1060)
    assert len(cluster.queries) == 5
