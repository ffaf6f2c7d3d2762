"""Jobs as the forecast service shows them, invented; and a site that serves them."""

import dataclasses

from carbon_exporter.forecast import api, page
from carbon_exporter.forecast.energy import Forecast, Quantiles
from carbon_exporter.forecast.stopping import Expected
from carbon_exporter.forecast.view import JobView
from carbon_exporter.web.server import WebServer
from carbon_exporter.web.site import Page, Site

NOW = 1_800_000_000.0


class ScriptedForecasts:
    """Stands for the service; counts how often it is asked."""

    def __init__(self, views=(), rows=()):
        self.held, self.rows, self.asked = views, rows, 0

    def views(self):
        self.asked += 1
        return self.held

    def accuracy(self):
        return self.rows


def view(name="team/resnet", *, grams=(900.0, 1000.0, 1150.0), joules=(9e6, 1e7, 1.15e7), **changes):
    """A job in its third epoch of ten, with a forecast; `grams` or `joules` None: without."""
    forecast = None
    if joules is not None:
        forecast = Forecast(
            joules=Quantiles(*joules),
            end_timestamp_seconds=Quantiles(NOW + 3000, NOW + 3600, NOW + 4500),
            epoch_joules=1e6,
            epochs_observed=3.0,
            basis="group",
            epoch_seconds=500.0,
            correction=0.01,
            calibration_runs=12,
        )
    made = JobView(
        training_job=name,
        group="vision",
        outcome="forecast",
        epochs_completed=3.0,
        epochs_planned=10.0,
        started_seconds=NOW - 1500,
        ended_seconds=None,
        joules=3.2e6,
        grams=320.0,
        emissions_basis="lifecycle",
        budget_grams=1100.0,
        forecast=forecast,
        forecast_grams=None if grams is None else Quantiles(*grams),
        expected_joules=None,
        expected_grams=None,
        epochs=((0.0, NOW - 1500, 0.0), (1.0, NOW - 1000, 1.1e6), (3.0, NOW - 10, 3.1e6)),
        made_seconds=NOW,
        warnings=(),
    )
    return dataclasses.replace(made, **changes)


def stopping_early():
    """A job whose group tends to stop early."""
    made = view("team/early", grams=(700.0, 800.0, 900.0))
    early = Expected(NOW + 1000, NOW + 2000, NOW + 3000, NOW + 2100)
    return dataclasses.replace(
        made,
        forecast=dataclasses.replace(made.forecast, expected_end_timestamp_seconds=early),
        expected_joules=Quantiles(4e6, 6e6, 9e6),
        expected_grams=Quantiles(400.0, 600.0, 890.0),
    )


def serve(forecasts, routes=(), config=None):
    """A server on a free port, not started yet."""
    site = Site("t", "d", lambda: Page(b""), lambda: True, routes=[*api.routes(forecasts), *page.routes(), *routes])
    return WebServer(site, "127.0.0.1:0", config)
