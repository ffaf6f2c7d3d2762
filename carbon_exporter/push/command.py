"""`carbon-exporter push`: one push from a shell, at once and with loud errors."""

import argparse
import os
import sys
import time
from collections.abc import Callable

from carbon_exporter.model import ConfigurationError
from carbon_exporter.naming import GROUP, JOB, group_in, name_in, training_job_name
from carbon_exporter.push.gateway import URL, Gateway, GatewayError, from_environment
from carbon_exporter.push.training import Training, amount


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `carbon-exporter push`."""
    parser.add_argument("name", metavar="NAME", type=_name, nargs="?", help=f"the training job (${JOB}, or Slurm's)")
    parser.add_argument("--epochs-completed", type=_amount(0), metavar="N", help="epochs done, 2.35 for part of one")
    parser.add_argument("--epochs-planned", type=_amount(1e-9), metavar="N", help="epochs that the job is set to do")
    parser.add_argument("--epochs-resumed", type=_amount(0), metavar="N", help="of them, done by earlier runs")
    parser.add_argument("--group", metavar="G", help=f"jobs alike, which forecasts learn from together (${GROUP})")
    parser.add_argument("--budget-grams", type=_amount(1e-9), metavar="GRAMS", help="CO2eq the job may cause in all")
    parser.add_argument("--started-at", type=_amount(0), metavar="UNIX", help="when it started: $(date +%%s)")
    parser.add_argument("--finished", action="store_true", help="it has ended now, as intended")
    parser.add_argument("--gateway", metavar="URL", help=f"the Pushgateway (${URL})")
    parser.add_argument("--delete", action="store_true", help="delete what was pushed for the job, instead of pushing")


def run(arguments: argparse.Namespace) -> int:
    """Push, or delete, once. The exit status: 0 confirmed, 1 not, 2 wrong usage; errors are one line on stderr."""
    training = _training(arguments, time.time())
    if not training.name:
        return _fail(2, f"no job: give NAME or set {JOB}")
    known = training != Training(training.name, training.group)
    if arguments.delete and (known or arguments.group is not None):
        return _fail(2, "--delete takes no values: it deletes everything pushed for the job")
    if not arguments.delete and not known:
        return _fail(2, "nothing to push: give --epochs-completed, or another value (--help lists them)")
    try:
        gateway = from_environment(os.environ, arguments.gateway)
    except ConfigurationError as error:
        return _fail(2, str(error))
    if gateway is None:
        return _fail(2, f"no Pushgateway: give --gateway http://pushgateway:9091 or set {URL}")
    return _send(gateway, training, delete=arguments.delete)


def _send(gateway: Gateway, training: Training, *, delete: bool) -> int:
    try:
        if delete:
            gateway.delete(training.name)
        else:
            gateway.push(training)
    except GatewayError as error:
        return _fail(1, str(error))
    return 0


def _training(arguments: argparse.Namespace, now_seconds: float) -> Training:
    return Training(
        name=arguments.name or name_in(os.environ),
        group=group_in(os.environ) if arguments.group is None else training_job_name(arguments.group),
        epochs_completed=arguments.epochs_completed,
        epochs_planned=arguments.epochs_planned,
        epoch_end_seconds=None if arguments.epochs_completed is None else now_seconds,
        started_seconds=arguments.started_at,
        finished_seconds=now_seconds if arguments.finished else None,
        budget_grams=arguments.budget_grams,
        epochs_resumed=arguments.epochs_resumed,
    )


def _fail(status: int, message: str) -> int:
    sys.stderr.write(f"carbon-exporter push: {message}\n")
    return status


def _name(text: str) -> str:
    name = training_job_name(text)
    if not name:
        raise argparse.ArgumentTypeError("the job's name is empty")
    return name


def _amount(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = amount(text)
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {'above' if least else 'of at least'} 0")
        return number

    return parse
