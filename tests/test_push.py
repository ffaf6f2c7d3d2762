"""What training jobs push: against a real Pushgateway, and against servers that misbehave."""

import argparse
import base64
import contextlib
import json
import logging
import math
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.demo.servers import Server, free_port, pushgateway
from carbon_exporter.model import ConfigurationError
from carbon_exporter.naming import training_job_name
from carbon_exporter.push import Progress, command, deletion
from carbon_exporter.push.gateway import Gateway, GatewayError, checked_url, from_environment
from carbon_exporter.push.progress import RANKS, rank
from carbon_exporter.push.training import Training

WAIT_SECONDS = 20.0
SECRET = "correct-horse"
NAMES = [
    "resnet50",
    "a/b/../c",
    ".",
    "..",
    "ünï\u2603",
    'it\'s "quoted" \\',
    "a b+c%2F?d#e;f",
    "-x",
    "@base64",
    "x" * 10_000,
    "é" * 10_000,
]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in list(os.environ):
        if name.startswith(("CARBON_", "SLURM_")) and name != "CARBON_REQUIRE_REAL":
            monkeypatch.delenv(name)
    for name in (*RANKS, "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.INFO, "carbon_exporter")


@pytest.fixture(scope="module")
def gateway(need: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need("prometheus-pushgateway")
    with pushgateway(tmp_path_factory.mktemp("gateway")) as server:
        yield server.url


def groups(url: str) -> dict[str, dict[str, float]]:
    """What the gateway holds: values by metric name, by training_job."""
    found = {}
    for group in requests.get(f"{url}/api/v1/metrics", timeout=5).json()["data"]:
        assert group["labels"]["job"] == "carbon_training"
        values = {
            k: float(v["metrics"][0]["value"]) for k, v in group.items() if isinstance(v, dict) and "metrics" in v
        }
        found[group["labels"]["training_job"]] = values
    return found


def value(url: str, name: str, metric: str = "carbon_training_epochs_completed") -> float | None:
    return groups(url).get(name, {}).get(metric)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not in {WAIT_SECONDS} s: {what}"
        time.sleep(0.05)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "carbon_exporter.push" and r.levelno == level]


class Misbehaving(contextlib.AbstractContextManager["Misbehaving"]):
    """A server on loopback that takes requests and answers `answer`, or never where that is None."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self._released = threading.Event()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                received = b""
                while b"\r\n\r\n" not in received and (part := self.request.recv(65536)):
                    received += part
                length = re.search(rb"(?i)content-length: (\d+)", received)
                missing = received.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0) - len(received)
                while missing > 0 and (part := self.request.recv(65536)):
                    missing -= len(part)
                outer.requests.append(received)
                if outer.answer is None:
                    outer._released.wait(60)
                else:
                    self.request.sendall(outer.answer)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def status(code: int, headers: str = "") -> bytes:
    return f"HTTP/1.1 {code} Echo {SECRET}\r\n{headers}Content-Length: 0\r\n\r\n".encode()


# --- the good case, on a real Pushgateway


@pytest.mark.real
def test_a_run_is_pushed_from_start_to_end(gateway: str) -> None:
    before = time.time()
    options = {"epochs": 3, "group": "kind", "budget_grams": 500, "gateway_url": gateway, "heartbeat_seconds": 0.05}
    with Progress("whole", delete_after_seconds=None, **options) as progress:
        wait_until(lambda: value(gateway, "whole") == 0, "first push")
        seen = []
        for epoch in progress.epochs():
            seen.append(epoch)
            wait_until(lambda done=epoch: value(gateway, "whole") == done, f"epoch {epoch}")
        progress.update(2.5)  # goes back: not taken over
        running = groups(gateway)["whole"]
    ended = groups(gateway)["whole"]
    assert seen == [0, 1, 2]
    assert "carbon_training_finished_timestamp_seconds" not in running
    assert ended["carbon_training_epochs_completed"] == ended["carbon_training_epochs_planned"] == 3
    assert ended["carbon_training_emissions_budget_grams"] == 500
    started = ended["carbon_training_start_timestamp_seconds"]
    epoch_end, finished = (ended[f"carbon_training_{x}_timestamp_seconds"] for x in ("epoch_end", "finished"))
    assert before <= started <= epoch_end <= finished <= time.time()
    page = requests.get(f"{gateway}/metrics", timeout=5).text
    assert 'carbon_training_info{group="kind",instance="",job="carbon_training",training_job="whole"} 1' in page


@pytest.mark.real
def test_the_heartbeat_pushes_the_same_values_again(gateway: str) -> None:
    with Progress("beat", gateway_url=gateway, heartbeat_seconds=0.05, delete_after_seconds=None):
        wait_until(lambda: "beat" in groups(gateway), "first push")
        first = groups(gateway)["beat"]
        wait_until(lambda: groups(gateway)["beat"]["push_time_seconds"] > first["push_time_seconds"], "heartbeat")
        again = groups(gateway)["beat"]
    for metric in ("carbon_training_epochs_completed", "carbon_training_epoch_end_timestamp_seconds"):
        assert again[metric] == first[metric]


@pytest.mark.real
def test_a_gateway_that_starts_anew_has_the_group_again(
    need: Callable[[str], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    need("prometheus-pushgateway")
    with pushgateway(tmp_path) as server:
        options = {"gateway_url": server.url, "heartbeat_seconds": 0.2, "delete_after_seconds": None}
        with Progress("restart", **options) as progress:  # type: ignore[arg-type]
            wait_until(lambda: "restart" in groups(server.url), "first push")
            server.stop()
            wait_until(lambda: bool(messages(caplog, logging.WARNING)), "warning")
            progress.update(2)
            server.start()
            wait_until(lambda: value(server.url, "restart") == 2, "the same group again")
        assert messages(caplog, logging.INFO) == [f"progress is pushed again to {server.url}"]
        assert len(messages(caplog, logging.WARNING)) == 1


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_is_pushed_seen_and_deleted(gateway: str, name: str) -> None:
    with Progress(name, group=name, gateway_url=gateway, delete_after_seconds=None) as progress:
        progress.update(2.35)
    shown = training_job_name(name)
    assert value(gateway, shown) == 2.35
    there = Gateway(gateway)
    assert there.started_seconds(shown) == progress._training.started_seconds
    there.delete(shown)
    assert shown not in groups(gateway)


@pytest.mark.real
def test_a_resumed_run_says_what_earlier_ones_have_paid_for(gateway: str) -> None:
    for done, name in ((60, "resumed"), (0, "fresh")):
        with Progress(name, epochs=90, epochs_completed=done, gateway_url=gateway, delete_after_seconds=None) as run:
            run.update(61)
    assert value(gateway, "resumed", "carbon_training_epochs_resumed") == 60
    assert value(gateway, "fresh", "carbon_training_epochs_resumed") is None
    options = ["--gateway", gateway, "--epochs-completed", "61", "--epochs-resumed", "60"]
    assert push("shell", *options) == 0
    assert value(gateway, "shell", "carbon_training_epochs_resumed") == 60


@pytest.mark.real
def test_the_gateways_page_passes_promtool(gateway: str, need: Callable[[str], str]) -> None:
    values = {"epochs": 3, "epochs_completed": 1, "group": "g", "budget_grams": 1}
    with Progress("lint", **values, gateway_url=gateway, delete_after_seconds=None) as progress:
        progress.update(2)
    lines = requests.get(f"{gateway}/metrics", timeout=5).text.splitlines()
    page = "".join(f"{line}\n" for line in lines if re.match("(# (HELP|TYPE) )?carbon_", line))
    assert page.count("# TYPE") == 8
    checked = subprocess.run(
        [need("promtool"), "check", "metrics"], input=page, text=True, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.real
def test_basic_auth_with_a_password_file_that_changes(
    tmp_path: Path, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("prometheus-pushgateway")
    hashed = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(json.dumps({"basic_auth_users": {"trainer": hashed}}))
    address = f"127.0.0.1:{free_port()}"
    program = ["prometheus-pushgateway", "--persistence.file=", f"--web.listen-address={address}"]
    (tmp_path / "password").write_text("wrong\n")
    monkeypatch.setenv("CARBON_PUSHGATEWAY_USERNAME", "trainer")
    monkeypatch.setenv("CARBON_PUSHGATEWAY_PASSWORD_FILE", str(tmp_path / "password"))
    url = f"http://trainer:{SECRET}@{address}"
    with Server([*program, f"--web.config.file={tmp_path / 'web.yml'}"], url, tmp_path / "log"):
        there = from_environment(os.environ, f"http://{address}")
        assert there is not None
        with pytest.raises(GatewayError, match="answers 401: check CARBON_PUSHGATEWAY_USERNAME"):
            there.push(Training("a"))
        (tmp_path / "password").write_text(f"{SECRET}\n")
        there.push(Training("a", epochs_completed=1))
        assert value(url, "a") == 1


# --- the end


def helpers(name: str) -> list[int]:
    """The processes that wait to delete the group of `name`."""
    found = []
    for directory in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (directory / "cmdline").read_bytes().split(b"\0") if directory.name.isdigit() else []
            if len(words) > 3 and b"push.deletion" in words[2] and json.loads(words[3])[0] == name:
                found.append(int(directory.name))
    return found


@pytest.fixture
def ended(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name of this run alone, for a job whose group a process deletes; that process is gone after the test."""
    name = f"{request.node.name}-{os.getpid()}"
    yield name
    for pid in helpers(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.real
def test_a_detached_process_deletes_the_group(gateway: str, ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARBON_TRAINING_JOB", ended)
    monkeypatch.setenv("CARBON_TRAINING_GROUP", "kind")
    monkeypatch.setenv("CARBON_PUSHGATEWAY_USERNAME", "trainer")
    monkeypatch.setenv("CARBON_PUSHGATEWAY_PASSWORD", SECRET)
    with Progress(gateway_url=gateway, delete_after_seconds=2) as progress:
        progress.update(1)
    assert value(gateway, ended, "carbon_training_finished_timestamp_seconds") is not None
    (pid,) = helpers(ended)
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(") ")[2].split()
    assert int(fields[1]) != os.getpid(), "still a child of the training process"
    assert int(fields[3]) != os.getsid(0), "still in its session"
    environment = (process / "environ").read_bytes().split(b"\0")
    assert f"CARBON_PUSHGATEWAY_PASSWORD={SECRET}".encode() in environment
    assert not any(entry.startswith(b"CARBON_TRAINING_") for entry in environment)
    assert SECRET.encode() not in (process / "cmdline").read_bytes()
    assert {(process / "fd" / str(number)).readlink() for number in range(3)} == {Path("/dev/null")}
    wait_until(lambda: ended not in groups(gateway), "deletion")
    wait_until(lambda: not helpers(ended), "end of the process")


@pytest.mark.real
def test_an_exception_leaves_no_finished_timestamp_and_no_group(gateway: str, ended: str) -> None:
    def train() -> None:
        with Progress(ended, epochs=2, gateway_url=gateway, delete_after_seconds=1) as progress:
            for epoch in progress.epochs():
                assert 1 / (1 - epoch) == 1

    with pytest.raises(ZeroDivisionError):
        train()
    assert value(gateway, ended) == 1
    assert value(gateway, ended, "carbon_training_finished_timestamp_seconds") is None
    wait_until(lambda: ended not in groups(gateway), "deletion")


@pytest.mark.real
def test_the_group_of_a_later_run_is_left_alone(gateway: str) -> None:
    there, pauses = Gateway(gateway), []
    there.push(Training("twice", started_seconds=1.25))

    def later(seconds: float) -> None:
        pauses.append(seconds)
        there.push(Training("twice", started_seconds=2.25))

    assert not deletion.delete_later(there, "twice", 1.25, 180, sleep=later)
    assert value(gateway, "twice", "carbon_training_start_timestamp_seconds") == 2.25
    assert not deletion.delete_later(there, "twice", 1.25, 180, sleep=later)
    there.push(Training("twice"))
    assert not deletion.delete_later(there, "twice", 2.25, 180, sleep=later)
    assert pauses == [180]
    there.push(Training("twice", started_seconds=3.25))
    assert deletion.delete_later(there, "twice", 3.25, 0, sleep=lambda _: None)
    assert "twice" not in groups(gateway)


def test_deletion_outlasts_a_short_outage_and_gives_up_after_a_long_one() -> None:
    started = '{"job": "carbon_training", "training_job": "n"}, "carbon_training_start_timestamp_seconds"'
    page = f'{{"data": [{{"labels": {started}: {{"metrics": [{{"value": "1.5"}}]}}}}]}}'.encode()
    good = b"HTTP/1.0 200 OK\r\n\r\n" + page
    pauses: list[float] = []
    with Misbehaving(status(503)) as server:

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                server.answer = good

        assert deletion.delete_later(Gateway(server.url), "n", 1.5, 60, sleep=sleep)
        assert pauses == [5, 5, 60]
        assert [request.split()[0] for request in server.requests] == [b"GET", b"GET", b"GET", b"GET", b"DELETE"]
        server.answer, count = status(503), len(server.requests)
        assert not deletion.delete_later(Gateway(server.url), "n", 1.5, 60, sleep=lambda _: None)
        assert len(server.requests) - count == 180
        assert all(request.startswith(b"GET") for request in server.requests[count:])


SCRIPT = """
import os, sys
from carbon_exporter.push import Progress
progress = Progress("{name}", epochs=4, delete_after_seconds=None).start()
progress.update(2)
{rest}
"""


def script(gateway: str, name: str, rest: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CARBON_PUSHGATEWAY_URL": gateway}
    text = SCRIPT.format(name=name, rest=rest)
    return subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.real
def test_a_plain_object_left_open_is_closed_at_exit_as_unfinished(gateway: str) -> None:
    assert script(gateway, "open").stderr == ""
    assert value(gateway, "open") == 2
    assert value(gateway, "open", "carbon_training_finished_timestamp_seconds") is None


@pytest.mark.real
def test_close_twice_and_update_afterwards_change_nothing(gateway: str) -> None:
    progress = Progress("closed", gateway_url=gateway, delete_after_seconds=None).start()
    progress.update(1)
    progress.close()
    pushed = groups(gateway)["closed"]
    progress.update(2)
    progress.close()
    progress.start()
    assert groups(gateway)["closed"] == pushed


# --- fork and ranks


@pytest.mark.real
def test_a_forked_child_pushes_nothing_and_takes_no_lock(gateway: str) -> None:
    rest = """
held, forked = threading.Event(), threading.Event()
def hold():
    with progress._lock:
        held.set()
        forked.wait()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    progress.start()
    progress.update(3)
    progress.close()
    sys.exit(0)  # runs the child's exit handlers too
forked.set()
assert os.waitpid(child, 0)[1] == 0
"""
    run = script(gateway, "forked", "import threading, warnings\nwarnings.simplefilter('ignore')" + rest)
    assert run.stderr == ""
    assert value(gateway, "forked") == 2


@pytest.mark.parametrize("variable", RANKS)
def test_only_rank_0_pushes(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Misbehaving(OK) as server:
        monkeypatch.setenv(variable, "1")
        with Progress("ranked", epochs=2, gateway_url=server.url) as progress:
            assert list(progress.epochs()) == [0, 1]
        assert server.requests == []
        monkeypatch.setenv(variable, "0")
        with Progress("ranked", gateway_url=server.url, delete_after_seconds=None):
            pass
        assert server.requests


def test_torchruns_rank_comes_first_and_nonsense_is_passed_over() -> None:
    assert rank({"RANK": "0", "SLURM_PROCID": "3"}) == 0
    assert rank({"RANK": "2", "SLURM_PROCID": "0"}) == 2
    assert rank({"RANK": "", "SLURM_PROCID": "x", "PMI_RANK": "4"}) == 4
    assert rank({}) == 0


# --- bad values


@given(st.lists(st.floats() | st.integers() | st.text() | st.none() | st.lists(st.integers())))
def test_the_largest_good_value_is_kept(updates: list[object]) -> None:
    progress = Progress("values", epochs=5)
    for update in updates:
        progress.update(update)  # type: ignore[arg-type]
    good = [0.0]
    for update in updates:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            good.append(float(update))  # type: ignore[arg-type]
    assert progress._training.epochs_completed == max(x for x in good if math.isfinite(x))


def test_each_kind_of_bad_value_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress("warned", epochs=3)
    for bad in (1, math.nan, -1, "x", None, 10**400, 0.5, 0.25, 4, 5):
        progress.update(bad)  # type: ignore[arg-type]
    assert progress._training.epochs_completed == 5
    assert messages(caplog, logging.WARNING) == [
        "epochs_completed must be a number of at least 0, not nan",
        "epochs_completed went back from 1 to 0.5: not taken over",
        "epochs_completed is 4 of 3 planned",
    ]


@pytest.mark.parametrize("epochs", [0, -1, "x", math.nan, math.inf, [90], 10**400])
def test_bad_epochs_are_left_out_with_one_warning(epochs: object, caplog: pytest.LogCaptureFixture) -> None:
    with Misbehaving(OK) as server:
        options = {"epochs": epochs, "gateway_url": server.url, "delete_after_seconds": None}
        with Progress("plan", **options) as progress:  # type: ignore[arg-type]
            progress.update(1)
    (message,) = messages(caplog, logging.WARNING)
    assert message.startswith("Progress(epochs=...) must be a number above 0, not ")
    assert progress._training.epochs_planned is None
    assert server.requests


def test_epochs_counts_as_range_does_and_resumes(caplog: pytest.LogCaptureFixture) -> None:
    assert list(Progress("n", epochs=5, epochs_completed=3).epochs()) == [3, 4]
    assert list(Progress("n", epochs=0).epochs()) == []
    for epochs in (None, 2.5, "x"):
        with pytest.raises(ValueError, match="needs a whole number"):
            Progress("n", epochs=epochs).epochs()  # type: ignore[arg-type]
    progress = Progress("n", epochs=5)
    for epoch in progress.epochs():
        if epoch == 2:
            break
    assert progress._training.epochs_completed == 2


def test_without_gateway_or_name_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Progress("n", epochs=1) as progress:
        assert list(progress.epochs()) == [0]
    assert messages(caplog, logging.INFO) == [
        "no progress is pushed: set CARBON_PUSHGATEWAY_URL to the URL of a Pushgateway"
    ]
    monkeypatch.setenv("CARBON_PUSHGATEWAY_URL", "http://127.0.0.1:9")
    with Progress():
        pass
    assert messages(caplog, logging.WARNING) == [
        "no progress is pushed: name the job by Progress(NAME) or CARBON_TRAINING_JOB"
    ]


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host:9091",
        f"user:{SECRET}@host",
        f"http://user:{SECRET}/x@host",
        f"http://host/?token={SECRET}",
        f"ftp://{SECRET}",
        f"http://host:{SECRET}",
        f"http://{SECRET} x",
        "http://",
        "http://[::1",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_shown(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("n", gateway_url=url) as progress:
        progress.update(1)
    (message,) = messages(caplog, logging.WARNING)
    assert message.startswith("no progress is pushed: CARBON_PUSHGATEWAY_URL")
    assert SECRET not in caplog.text


def test_urls_and_credentials_that_can_be_used() -> None:
    assert checked_url("gateway:9091/") == "http://gateway:9091"
    assert checked_url("https://host/push/") == "https://host/push"
    keys = [f"CARBON_PUSHGATEWAY_{key}" for key in ("URL", "USERNAME", "PASSWORD", "PASSWORD_FILE")]
    there = from_environment(dict(zip(keys, ["host", "u", SECRET], strict=False)))
    assert there == Gateway("http://host", "u", SECRET)
    assert SECRET not in repr(there)
    for values in (["host", "u"], ["host", "", SECRET], ["host", "u", SECRET, "file"]):
        with pytest.raises(ConfigurationError, match="CARBON_PUSHGATEWAY_PASSWORD") as caught:
            from_environment(dict(zip(keys, values, strict=False)))
        assert SECRET not in str(caught.value)


# --- gateways that misbehave


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(400), "answers 400: it refuses the metrics"),
        (status(401), "answers 401: check CARBON_PUSHGATEWAY_USERNAME"),
        (status(500), "answers 500: see its log"),
        (status(307, "Location: http://127.0.0.1:9/\r\n"), "answers 307: check CARBON_PUSHGATEWAY_URL"),
        (f"{SECRET} is no HTTP\r\n\r\n".encode(), "does not answer in HTTP"),
        (b"", "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000, "does not answer in HTTP"),
    ],
    ids=["400", "401", "500", "redirect", "garbage", "nothing", "headers"],
)
def test_a_failing_gateway_costs_one_warning_and_one_word_when_it_is_well(
    answer: bytes, reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARBON_PUSHGATEWAY_USERNAME", "trainer")
    monkeypatch.setenv("CARBON_PUSHGATEWAY_PASSWORD", SECRET)
    with Misbehaving(answer) as server:
        options = {"gateway_url": server.url, "heartbeat_seconds": 0.02, "delete_after_seconds": None}
        with Progress("failing", **options) as progress:  # type: ignore[arg-type]
            wait_until(lambda: len(server.requests) >= 3, "retries")
            (warning,) = messages(caplog, logging.WARNING)
            assert warning.startswith(f"progress cannot be pushed, training goes on: {server.url}")
            assert reason in warning
            server.answer = OK
            wait_until(lambda: bool(messages(caplog, logging.INFO)), "recovery")
            progress.update(1)
        assert messages(caplog, logging.INFO) == [f"progress is pushed again to {server.url}"]
        assert len(messages(caplog, logging.WARNING)) == 1
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text
    credentials = base64.b64encode(f"trainer:{SECRET}".encode())
    assert all(b"Authorization: Basic " + credentials in request for request in server.requests)


def test_a_gateway_that_is_down_costs_one_warning(ended: str, caplog: pytest.LogCaptureFixture) -> None:
    with Progress(ended, gateway_url=f"http://127.0.0.1:{free_port()}", heartbeat_seconds=0.02) as progress:
        progress.update(1)
    (warning,) = messages(caplog, logging.WARNING)
    assert "connection refused: is the Pushgateway running" in warning
    assert helpers(ended) == [], "nothing was pushed, so there is nothing to delete"


def test_the_end_does_not_wait_for_a_gateway_that_never_answers(caplog: pytest.LogCaptureFixture) -> None:
    with Misbehaving(None) as server:
        with Progress("hanging", gateway_url=server.url, close_timeout_seconds=0.1) as progress:
            wait_until(lambda: bool(server.requests), "first push")
            for epoch in range(1000):
                progress.update(epoch)
        assert messages(caplog, logging.WARNING) == ["the last push was not confirmed in 0.1 s"]
        assert len(server.requests) == 1
        server._released.set()
        assert progress._pusher is not None
        assert progress._pusher.close(WAIT_SECONDS)


def test_a_timeout_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carbon_exporter.push.gateway.TIMEOUT_SECONDS", 0.1)
    with Misbehaving(None) as server, pytest.raises(GatewayError, match=r"no answer in 0\.1 s"):
        Gateway(server.url).push(Training("n"))


def test_a_flood_of_updates_is_few_pushes() -> None:
    with Misbehaving(OK) as server:
        with Progress("flood", gateway_url=server.url, delete_after_seconds=None) as progress:
            started = time.monotonic()
            for step in range(100_000):
                progress.update(step / 1000)
            ticks = time.monotonic() - started
        assert len(server.requests) <= 3 + ticks


def test_without_news_nothing_is_pushed_before_the_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carbon_exporter.push.pusher.TICK_SECONDS", 0.01)
    with Misbehaving(OK) as server:
        with Progress("calm", gateway_url=server.url, heartbeat_seconds=1000, delete_after_seconds=None):
            wait_until(lambda: bool(server.requests), "first push")
            time.sleep(0.3)
            assert len(server.requests) == 1
        assert len(server.requests) == 2


def test_news_does_not_hurry_the_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carbon_exporter.push.pusher.TICK_SECONDS", 0.01)
    with Misbehaving(status(500)) as server:
        started = time.monotonic()
        with Progress("eager", gateway_url=server.url, heartbeat_seconds=1000, delete_after_seconds=None) as progress:
            wait_until(lambda: bool(server.requests), "first push")
            for step in range(30):
                progress.update(step)
                time.sleep(0.01)
            # The pauses are 2 s, 4 s and so on.
            assert len(server.requests) <= 1 + (time.monotonic() - started) / 2


def test_a_password_does_not_follow_a_redirect() -> None:
    with Misbehaving(OK) as other, Misbehaving(status(302, f"Location: {other.url}/\r\n")) as server:
        with pytest.raises(GatewayError, match="answers 302"):
            Gateway(server.url, "trainer", SECRET).started_seconds("n")
        assert server.requests
        assert other.requests == []


def test_importing_it_pulls_in_no_server_library() -> None:
    heavy = ["uvicorn", "starlette", "pydantic", "requests", "yaml", "rich", "pynvml", "numpy", "prometheus_client"]
    text = f"import sys, carbon_exporter.push; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# --- the command


def push(*words: str) -> int:
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


@pytest.mark.real
def test_the_command_pushes_and_deletes(gateway: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = [
        "--epochs-completed",
        "3",
        "--epochs-planned",
        "90",
        "--budget-grams",
        "500",
        "--started-at",
        "1700000000",
    ]
    assert push("a/b", "--gateway", gateway, "--group", "g", *values) == 0
    found = groups(gateway)["a/b"]
    assert found["carbon_training_epochs_completed"] == 3
    assert found["carbon_training_epochs_planned"] == 90
    assert found["carbon_training_emissions_budget_grams"] == 500
    assert found["carbon_training_start_timestamp_seconds"] == 1.7e9
    assert "carbon_training_finished_timestamp_seconds" not in found
    assert push("a/b", "--gateway", gateway, "--finished") == 0
    assert abs(groups(gateway)["a/b"]["carbon_training_finished_timestamp_seconds"] - time.time()) < 60
    assert push("a/b", "--gateway", gateway, "--delete") == 0
    assert "a/b" not in groups(gateway)
    assert capsys.readouterr().err == ""


NAMED = [
    ({"CARBON_TRAINING_JOB": "bert"}, "bert"),
    ({"SLURM_JOB_ID": "4711"}, "slurm-4711"),
    ({"SLURM_JOB_ID": "4711", "CARBON_TRAINING_JOB": "bert"}, "bert"),
    ({"CARBON_POD_NAMESPACE": "nlp", "CARBON_TRAINING_JOB": "bert"}, "nlp/bert"),
]


@pytest.mark.real
@pytest.mark.parametrize(("environment", "name"), NAMED)
def test_without_a_name_both_push_under_that_of_the_environment(
    environment: dict[str, str], name: str, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, text in {**environment, "CARBON_TRAINING_GROUP": "kind"}.items():
        monkeypatch.setenv(key, text)
    with Progress(epochs=3, gateway_url=gateway, delete_after_seconds=None) as progress:
        assert progress._training.group == "kind"
    assert value(gateway, name, "carbon_training_epochs_planned") == 3
    assert push("--epochs-completed", "2", "--gateway", gateway) == 0
    assert value(gateway, name) == 2
    assert push("--delete", "--gateway", gateway) == 0
    assert name not in groups(gateway)


def test_an_explicit_name_is_used_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, text in NAMED[3][0].items():
        monkeypatch.setenv(key, text)
    assert Progress("resnet", group="g")._training.name == "resnet"
    assert Progress()._training.name == "nlp/bert"


@pytest.mark.parametrize(
    ("words", "expected_status", "text"),
    [
        (["--finished"], 2, "no job: give NAME or set CARBON_TRAINING_JOB"),
        (["n", "--finished"], 2, "give --gateway http://pushgateway:9091 or set CARBON_PUSHGATEWAY_URL"),
        (["n", "--gateway", "h"], 2, "nothing to push"),
        (["n", "--gateway", "h", "--group", "g"], 2, "nothing to push"),
        (["n", "--gateway", "h", "--delete", "--finished"], 2, "--delete takes no values"),
        (["n", "--gateway", f"u:{SECRET}@h", "--finished"], 2, "no user or password in the URL"),
        (["n", "--gateway", "http://127.0.0.1:9", "--finished"], 1, "http://127.0.0.1:9: connection refused"),
        (["n", "--gateway", "http://127.0.0.1:9", "--delete"], 1, "http://127.0.0.1:9: connection refused"),
    ],
)
def test_the_commands_errors_are_one_line(
    words: list[str], expected_status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(*words) == expected_status
    error = capsys.readouterr().err
    assert error.startswith("carbon-exporter push: ")
    assert text in error
    assert error.count("\n") == 1
    assert SECRET not in error


@pytest.mark.parametrize(
    "words",
    [
        ["", "--finished"],
        ["n", "--epochs-completed", "-1"],
        ["n", "--epochs-completed", "nan"],
        ["n", "--epochs-planned", "0"],
        ["n", "--budget-grams", "x"],
    ],
)
def test_the_command_checks_its_values(words: list[str]) -> None:
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        push(*words)


# --- docs/push.md


@pytest.mark.real
def test_the_curl_recipe_in_the_docs(gateway: str, need: Callable[[str], str], repository: Path) -> None:
    need("curl")
    blocks = re.findall(r"```sh\n(.*?)```", (repository / "docs" / "push.md").read_text(), re.DOTALL)
    define, progress, finish, delete, encoded = blocks

    def shell(text: str, name: str) -> None:
        environment = {**os.environ, "CARBON_PUSHGATEWAY_URL": gateway, "NAME": name}
        run = subprocess.run(["bash", "-euc", text], env=environment, capture_output=True, text=True, check=True)
        assert run.stderr == ""

    with Progress("beside", epochs=1, gateway_url=gateway, delete_after_seconds=None):
        pass
    shell(define + progress, "curled")
    running = groups(gateway)["curled"]
    assert running["carbon_training_epochs_completed"] == 3
    assert set(running) == set(groups(gateway)["beside"]) - {"carbon_training_finished_timestamp_seconds"}
    shell(define + finish, "curled")
    assert set(groups(gateway)["curled"]) == set(groups(gateway)["beside"])
    shell(delete, "curled")
    assert "curled" not in groups(gateway)
    for name in ("a/b?c d", "~~~???>>>"):
        shell(encoded, name)
        assert value(gateway, name) == 3
        Gateway(gateway).delete(name)
        assert name not in groups(gateway)
