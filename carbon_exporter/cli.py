"""The commands; the one file that knows every room. Each command imports its rooms when it runs: `push` stays light."""

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from carbon_exporter import __version__
from carbon_exporter.forecast_api import INTENSITY_PATH
from carbon_exporter.model import ConfigurationError
from carbon_exporter.push import command as push_command

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from carbon_exporter.web.server import WebServer
    from carbon_exporter.web.site import Page

NODE_ADDRESS: Final = ":10090"
FORECAST_ADDRESS: Final = ":10091"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. A bad setting is one line on stderr and status 2."""
    parsed = _parser().parse_args(arguments)
    level = getattr(parsed, "log_level", "warning").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        status: int = parsed.run(parsed)
    except ConfigurationError as error:
        sys.stderr.write(f"carbon-exporter {parsed.command}: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("carbon_exporter"):
            raise
        sys.stderr.write(
            f"carbon-exporter {parsed.command}: the package {error.name} is missing: "
            "install carbon-exporter with its dependencies (without --no-deps)\n"
        )
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="carbon-exporter", description="Energy and CO2eq of training jobs, now and at their end."
    )
    parser.add_argument("--version", action="version", version=f"carbon-exporter {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    node = commands.add_parser("node", help="read this host's energy, share it out to jobs, serve /metrics")
    _add_service_arguments(node, NODE_ADDRESS)
    node.set_defaults(run=run_node)

    forecast = commands.add_parser("forecast", help="predict what every job of the cluster will have used")
    _add_service_arguments(forecast, FORECAST_ADDRESS)
    forecast.set_defaults(run=run_forecast)

    push = commands.add_parser("push", help="push a job's progress to the Pushgateway from a shell")
    push_command.add_arguments(push)
    push.set_defaults(run=push_command.run)

    check = commands.add_parser("check", help="say what can be measured on this host, what not, why, and the cure")
    _add_config_argument(check)
    check.add_argument("--web.listen-address", dest="listen_address", default=NODE_ADDRESS, metavar="HOST:PORT")
    check.add_argument("--audit", metavar="TIME", help="instead, watch for so long (60s, 2m) and balance every joule")
    check.set_defaults(run=run_check)

    _add_backtest_commands(commands.add_parser("backtest", help="how good a forecast is on recorded data"))
    _add_history_commands(commands.add_parser("history", help="the record of ended runs that forecasts learn from"))

    advise = commands.add_parser("advise", help="when to start a job so that the fewest grams are accounted to it")
    advise.add_argument("--hours", type=float, required=True, metavar="N", help="how long the job runs, at most 96")
    advise.add_argument("--kilowatts", type=float, required=True, metavar="KW", help="its mean power, without PUE")
    advise.add_argument("--pue", type=float, metavar="N", help="power usage effectiveness; default: the service's")
    advise.add_argument("--deadline", metavar="TIME", help="when it must have ended: 36h from now, 2d, or an ISO time")
    advise.add_argument("--zone", metavar="ZONE", help="grid zone; needed where the service serves several")
    local = "http://127.0.0.1:10091"
    advise.add_argument("--url", default=local, metavar="URL", help="the forecast service; default: %(default)s")
    advise.add_argument("--username", default="", metavar="USER", help="for HTTP basic authentication")
    advise.add_argument("--password-file", type=Path, metavar="FILE", help="or $CARBON_INTENSITY_PASSWORD")
    advise.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM certificates to trust")
    advise.add_argument("--json", action="store_true", help="print the service's answer as it is")
    advise.set_defaults(run=run_advise)

    _add_rules_arguments(commands.add_parser("rules", help="write the recording and alerting rules with your settings"))

    demo = commands.add_parser("demo", help="run everything here on two small training jobs, and show the forecasts")
    demo.add_argument("--keep", action="store_true", help="leave it running at the end until Ctrl-C")
    demo.set_defaults(run=run_demo)
    return parser


def _add_backtest_commands(parser: argparse.ArgumentParser) -> None:
    recorded = parser.add_subparsers(dest="recorded", required=True, metavar="WHAT")
    intensity = recorded.add_parser("intensity", help="the forecast of the grid's intensity, on hourly CSV series")
    intensity.add_argument("files", nargs="+", type=Path, metavar="FILE", help="CSV: a header, hourly ISO times first")
    intensity.add_argument("--column", default="lifecycle_g_per_kwh", metavar="NAME", help="default: %(default)s")
    every = "hours from one forecast to the next; default: %(default)s"
    intensity.add_argument("--every", type=int, default=7, metavar="N", help=every)
    intensity.set_defaults(run=run_backtest_intensity)
    energy = recorded.add_parser("energy", help="the forecast of jobs' energy and time, on recorded runs")
    columns = "CSV: run,config,epoch,duration_s,energy_j; each file is a set of its own"
    energy.add_argument("files", nargs="+", type=Path, metavar="FILE", help=columns)
    energy.add_argument("--every", type=int, default=1, metavar="N", help="forecast only every Nth run; default: all")
    fewest = "forecast only runs of at least so many; default: %(default)s"
    energy.add_argument("--fewest-epochs", type=int, default=10, metavar="N", help=fewest)
    history = "ended runs of other configurations to learn from; default: all"
    energy.add_argument("--history", type=int, metavar="N", help=history)
    energy.add_argument("--json", action="store_true", help="print the figures as JSON")
    energy.set_defaults(run=run_backtest_energy)


def _add_history_commands(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="WHAT")
    importing = verbs.add_parser("import", help="add runs from CSV files of epochs, or from Carbontracker's logs")
    files = "*.csv of run,config,epoch,duration_s,energy_j, or *_carbontracker.log"
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE", help=files)
    group = "of all these runs; default: the column config, or the name of the logs' folder"
    importing.add_argument("--group", metavar="NAME", help=group)
    rebuild = verbs.add_parser("rebuild", help="add the runs that the PromQL engine still knows")
    rebuild.add_argument("--days", type=float, default=30.0, metavar="N", help="back from now; default: %(default)g")
    verbs.add_parser("show", help="the record by group")
    for verb in verbs.choices.values():
        _add_config_argument(verb)
        verb.add_argument("--database", type=Path, metavar="FILE", help="default: forecast.history_file")
        verb.set_defaults(run=run_history)


def _add_rules_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config_argument(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write to; default: print")
    forms = "rule files, or one manifest for the Prometheus operator; default: %(default)s"
    parser.add_argument("--format", default="files", choices=["files", "prometheusrule"], help=forms)
    parser.add_argument("--name", metavar="NAME", help="of the PrometheusRule; default: carbon-exporter")
    parser.add_argument("--namespace", metavar="NS", help="of the PrometheusRule")
    selected = "of the PrometheusRule, such as release=prometheus; may be given several times"
    parser.add_argument("--label", action="append", metavar="KEY=VALUE", help=selected)
    parser.add_argument("--force", action="store_true", help="overwrite files that this command did not write")
    parser.set_defaults(run=run_rules)


def _add_config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the YAML file of settings (docs/configuration.md)")


def _add_service_arguments(parser: argparse.ArgumentParser, address: str) -> None:
    """The flags of a serving command, named as those of other exporters."""
    _add_config_argument(parser)
    parser.add_argument("--web.listen-address", dest="listen_address", default=address, metavar="HOST:PORT")
    parser.add_argument("--web.telemetry-path", dest="telemetry_path", default="/metrics", metavar="PATH")
    parser.add_argument("--web.config.file", dest="web_config", type=Path, metavar="FILE", help="TLS and basic auth")
    levels = ["debug", "info", "warning", "error"]
    parser.add_argument("--log.level", dest="log_level", default="info", choices=levels, help="default: info")


class _Latest:
    """The page that is served; one thread writes it, the web server reads it."""

    def __init__(self) -> None:
        self.page: Page | None = None

    def publish(self, plain: bytes) -> None:
        from carbon_exporter.web.site import Page  # noqa: PLC0415

        self.page = Page(plain)

    def publish_compressed(self, plain: bytes) -> None:
        """For pages of megabytes, whose compression a scrape had to wait for."""
        from carbon_exporter.web.site import Page  # noqa: PLC0415

        page = Page(plain)
        _ = page.gzipped
        self.page = page


def run_node(arguments: argparse.Namespace) -> int:
    """`carbon-exporter node`: until SIGTERM or SIGINT."""
    from carbon_exporter.config import load_config  # noqa: PLC0415
    from carbon_exporter.node import agent  # noqa: PLC0415

    config = load_config(arguments.config)
    latest = _Latest()
    grid = agent.open_node_grid(config)
    sampler = agent.build_sampler(config, latest.publish, grid)
    description = "Energy and CO2eq of this node and of the training jobs on it."
    server = _serve(arguments, latest, "carbon-exporter node", description)
    try:
        agent.hint_at_zone(config)
        agent.warn_of_a_passing_name(config, os.environ)
        agent.run(sampler, grid, _stop_on_signals())
    finally:
        server.stop()
    return 0


def run_forecast(arguments: argparse.Namespace) -> int:
    """`carbon-exporter forecast`: until SIGTERM or SIGINT."""
    from carbon_exporter.config import load_config  # noqa: PLC0415
    from carbon_exporter.forecast import api as jobs_api  # noqa: PLC0415
    from carbon_exporter.forecast import page, runbooks  # noqa: PLC0415
    from carbon_exporter.forecast import service as forecast  # noqa: PLC0415
    from carbon_exporter.forecast.settings import Settings  # noqa: PLC0415
    from carbon_exporter.grid import api  # noqa: PLC0415
    from carbon_exporter.grid.grid import open_grid  # noqa: PLC0415
    from carbon_exporter.regions import pue_of  # noqa: PLC0415
    from carbon_exporter.settings import validated  # noqa: PLC0415
    from carbon_exporter.web.json_api import refusing  # noqa: PLC0415

    config = load_config(arguments.config)
    grid = open_grid(config.intensity)
    service = forecast.build(validated(Settings, config.forecast, "forecast"), grid=grid)
    latest = _Latest()
    title, description = "carbon-exporter forecast", "What every training job will have used and emitted at its end."
    known = [*api.routes(grid, pue_of(config.pue, config.cloud_region), time.time), *jobs_api.routes(service)]
    routes = [*known, refusing(known), *page.routes(), *runbooks.routes()]
    links = [("Training jobs", page.PAGE_PATH), ("Grid intensity", INTENSITY_PATH), ("Runbooks", runbooks.PATH)]
    server = _serve(arguments, latest, title, description, routes=routes, links=links)
    # A full collection stops all answers until it has looked through every job, and finds next to nothing.
    gc.set_threshold(100_000, 50, 100)
    grid.start()
    try:
        service.run(_stop_on_signals(), latest.publish_compressed)
    finally:
        server.stop()
        grid.close()
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """`carbon-exporter check`: 0 where everything that is there can be read, 1 where something is broken.

    With --audit: 0 where every joule is accounted for.
    """
    from carbon_exporter import audit, check  # noqa: PLC0415
    from carbon_exporter.config import load_config  # noqa: PLC0415
    from carbon_exporter.forecast.settings import Settings  # noqa: PLC0415
    from carbon_exporter.rules.settings import Settings as RulesSettings  # noqa: PLC0415
    from carbon_exporter.settings import validated  # noqa: PLC0415

    config = load_config(arguments.config)
    validated(Settings, config.forecast, "forecast")
    validated(RulesSettings, config.rules, "rules")
    if arguments.audit is not None:
        return audit.run(config, audit.parse_seconds(arguments.audit))
    return check.run(config, arguments.listen_address)


def run_backtest_intensity(arguments: argparse.Namespace) -> int:
    """`carbon-exporter backtest intensity`: 0."""
    from carbon_exporter.grid import backtest_report  # noqa: PLC0415

    return backtest_report.run(arguments)


def run_history(arguments: argparse.Namespace) -> int:
    """`carbon-exporter history`: 0, or 1 where a file or the engine failed."""
    from carbon_exporter.config import load_config  # noqa: PLC0415
    from carbon_exporter.forecast import history_command  # noqa: PLC0415
    from carbon_exporter.forecast.settings import Settings  # noqa: PLC0415
    from carbon_exporter.settings import validated  # noqa: PLC0415

    settings = validated(Settings, load_config(arguments.config).forecast, "forecast")
    if arguments.verb == "import":
        return history_command.run_import(arguments, settings)
    if arguments.verb == "show":
        return history_command.run_show(arguments, settings)
    return history_command.run_rebuild(arguments, settings, time.time())


def run_backtest_energy(arguments: argparse.Namespace) -> int:
    """`carbon-exporter backtest energy`: 0."""
    from carbon_exporter.forecast import backtest_report  # noqa: PLC0415

    return backtest_report.run(arguments)


def run_advise(arguments: argparse.Namespace) -> int:
    """`carbon-exporter advise`: 0, or 1 where the service gave no advice."""
    from carbon_exporter.grid import advise  # noqa: PLC0415

    return advise.run(arguments)


def run_rules(arguments: argparse.Namespace) -> int:
    """`carbon-exporter rules`: 0."""
    from carbon_exporter.config import load_config  # noqa: PLC0415
    from carbon_exporter.rules import command  # noqa: PLC0415
    from carbon_exporter.rules.settings import Settings  # noqa: PLC0415
    from carbon_exporter.settings import validated  # noqa: PLC0415

    return command.run(arguments, validated(Settings, load_config(arguments.config).rules, "rules"))


def run_demo(arguments: argparse.Namespace) -> int:
    """`carbon-exporter demo`: 0 where every stage really delivered."""
    from carbon_exporter.demo import demo  # noqa: PLC0415

    return demo.run(keep=arguments.keep)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def _serve(
    arguments: argparse.Namespace,
    latest: _Latest,
    title: str,
    description: str,
    *,
    routes: "Sequence[BaseRoute]" = (),
    links: Sequence[tuple[str, str]] = (),
) -> "WebServer":
    from carbon_exporter.web.config import load_web_config  # noqa: PLC0415
    from carbon_exporter.web.server import WebServer  # noqa: PLC0415
    from carbon_exporter.web.site import Site  # noqa: PLC0415

    site = Site(
        title=title,
        description=description,
        metrics=lambda: latest.page,
        ready=lambda: latest.page is not None,
        metrics_path=arguments.telemetry_path,
        routes=routes,
        links=links,
    )
    web_config = load_web_config(arguments.web_config) if arguments.web_config is not None else None
    server = WebServer(site, arguments.listen_address, web_config)
    server.start()
    logging.getLogger(__name__).info("serving %s on %s", arguments.telemetry_path, server.url)
    return server
