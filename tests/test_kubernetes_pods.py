"""Keeping up with the API server: over real HTTP, with all that goes wrong on a cluster's longest connection."""

import datetime as dt
import ipaddress
import logging
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_kubernetes import NODE, ApiServer, pod, uid_of, wait_until

from carbon_exporter.jobs.kubernetes import NoCluster, Settings, api, open_in, pods
from carbon_exporter.jobs.kubernetes.api import Api
from carbon_exporter.jobs.kubernetes.pods import Backoff, PodWatch
from carbon_exporter.model import ConfigurationError, Roots
from carbon_exporter.settings import validated


@pytest.fixture
def server():
    server = ApiServer()
    yield server
    server.close()


@pytest.fixture
def opened():
    watches = []
    yield watches
    for watch in watches:
        watch.close()
        assert not watch._thread.is_alive()


def watch_of(server, opened, *, most_pods=100, token_file="", ca_file="", random=lambda: 0.0, longest=0.1):
    changes = []
    watch = PodWatch(
        Api(server.url, token_file, ca_file),
        NODE,
        wanted={"job-name"},
        most_pods=most_pods,
        backoff=Backoff(0.02, longest, random),
        changed=lambda: changes.append(1),
    )
    watch.changes = changes
    opened.append(watch)
    watch.start()
    return watch


def names(watch):
    return {found.name for found in watch.known.pods.values()}


def lists(server):
    return [p for path, p, _ in server.requests if path == "/api/v1/pods" and "watch" not in p]


def watches(server):
    return [p for path, p, _ in server.requests if "watch" in p]


def test_pods_are_listed_page_by_page_and_then_watched(server, opened):
    server.page = 2
    server.put(*(pod(n) for n in range(5)))
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    assert watch.known.complete
    assert names(watch) == {f"pod-{n}" for n in range(5)}
    assert [p.get("continue") for p in lists(server)] == [None, "2", "4"]
    assert watches(server)[0]["resourceVersion"] == str(server.version)
    assert watches(server)[0]["allowWatchBookmarks"] == "true"
    assert 0 < int(watches(server)[0]["timeoutSeconds"]) < 3600
    server.put(pod(7, labels={"job-name": "a", "other": "b"}))
    wait_until(lambda: "pod-7" in names(watch))
    assert watch.known.pods[uid_of(7)].labels == {"job-name": "a"}
    server.put(pod(7, labels={"job-name": "changed"}))
    wait_until(lambda: watch.known.pods[uid_of(7)].labels == {"job-name": "changed"})
    server.delete(7)
    wait_until(lambda: "pod-7" not in names(watch))
    assert watch.failure == ""


def test_an_event_that_changes_nothing_we_keep_makes_no_new_snapshot(server, opened):
    server.put(pod(1))
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    known = watch.known
    server.put(pod(1, labels={"uninteresting": "1"}))
    server.bookmark()
    wait_until(lambda: watch._version == str(server.version))
    assert watch.known is known


def test_the_kubelet_is_asked_anew_only_for_pods_that_want_a_device(server, opened):
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    changes = len(watch.changes)
    server.put(pod(1, resources={"limits": {"cpu": "2", "memory": "1Gi"}}))
    wait_until(lambda: "pod-1" in names(watch))
    assert len(watch.changes) == changes
    server.put(pod(2, resources={"limits": {"nvidia.com/gpu": "1"}}), pod(3, resourceClaims=[{"name": "gpu"}]))
    wait_until(lambda: "pod-3" in names(watch))
    assert len(watch.changes) == changes + 2


def test_a_broken_connection_goes_on_from_the_last_version_and_the_last_bookmark(server, opened):
    server.put(pod(1))
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    server.put(pod(2))
    wait_until(lambda: "pod-2" in names(watch))
    server.drop_watches()
    wait_until(lambda: len(watches(server)) == 2 and server.watching)
    assert watches(server)[-1]["resourceVersion"] == str(server.version)
    server.version += 50
    server.bookmark()
    wait_until(lambda: watch._version == str(server.version))
    server.drop_watches()
    wait_until(lambda: len(watches(server)) == 3 and server.watching)
    assert watches(server)[-1]["resourceVersion"] == str(server.version)
    assert len(lists(server)) == 1
    assert watch.failure == ""


def test_after_410_pods_are_listed_again_and_known_until_then(server, opened):
    server.put(pod(1), pod(2))
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    server.refuse = 503
    server.forget()
    server.delete(1)
    server.put(pod(3))
    server.oldest = server.version
    wait_until(lambda: "503" in watch.failure)
    assert names(watch) == {"pod-1", "pod-2"}
    server.refuse = 0
    wait_until(lambda: names(watch) == {"pod-2", "pod-3"})
    # The first list may come from the server's cache; one after 410 may not be older than what was seen.
    assert lists(server)[0]["resourceVersion"] == "0"
    assert "resourceVersion" not in lists(server)[-1]
    wait_until(lambda: watch.failure == "")


def test_an_api_server_that_is_away_takes_nothing_with_it(server, opened, caplog):
    server.put(pod(1))
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    server.away()
    wait_until(lambda: watch.failure and watch._failures > 3)
    assert watch.failure == f"{server.url} does not answer: Connection refused; jobs known so far are kept"
    assert names(watch) == {"pod-1"}
    server.back()
    server.put(pod(2))
    wait_until(lambda: names(watch) == {"pod-1", "pod-2"})
    wait_until(lambda: watch.failure == "")
    assert not [record for record in caplog.records if record.name.startswith("carbon")]


def test_waiting_doubles_up_to_a_bound_and_is_scattered():
    backoff = Backoff(1.0, 60.0, lambda: 1.0)
    assert [backoff.seconds(n) for n in (0, 1, 2, 5, 6, 10_000)] == [1, 2, 4, 32, 60, 60]
    assert Backoff(1.0, 60.0, lambda: 0.0).seconds(6) == 30


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, ("403", "get, list and watch pods", "ClusterRole")),
        (404, ("404", "is it the API server? check jobs.kubernetes.api_url")),
        (401, ("401", "token")),
        (500, ("500",)),
        (307, ("307",)),
    ],
)
def test_a_refusal_names_its_cure(server, opened, status, words):
    server.refuse = status
    watch = watch_of(server, opened)
    wait_until(lambda: watch.failure)
    assert all(word in watch.failure for word in words)
    assert server.url in watch.failure
    assert "\n" not in watch.failure
    assert not watch.known.complete
    assert {path for path, _, _ in server.requests} == {"/api/v1/pods"}


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"items": 3, "metadata": {}}', b"null", b"\xff\xfe"])
def test_an_answer_that_is_no_list_is_a_failure(server, opened, answer):
    server.put(pod(1))
    server.answer = answer
    watch = watch_of(server, opened)
    wait_until(lambda: watch._failures > 1)
    assert server.url in watch.failure
    server.answer = None
    wait_until(lambda: names(watch) == {"pod-1"})


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b"[]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {"metadata": 3}}\n',
        b'{"type": "SOMETHING", "object": {"metadata": {"resourceVersion": "1"}}}\n',
        b'{"type": ["x"], "object": {"metadata": {"resourceVersion": "1"}}}\n',
        b'{"type": "ERROR", "object": {"code": 500}}\n',
        b'{"type": "ERROR", "object": null}\n',
        b'{"type": "ERROR", "object": {"code": "x"}}\n',
    ],
)
def test_a_line_that_is_no_event_is_loud_and_all_is_listed_again(server, opened, line):
    server.put(pod(1))
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    server.send(line)
    wait_until(lambda: watch.failure)
    wait_until(lambda: len(lists(server)) > 1 and server.watching)
    server.put(pod(2))
    wait_until(lambda: names(watch) == {"pod-1", "pod-2"})
    server.bookmark()
    wait_until(lambda: watch.failure == "")


def test_a_pod_of_odd_shape_is_left_out_and_the_watch_goes_on(server, opened, caplog):
    odd = pod(1)
    odd["metadata"]["name"] = "../../etc"
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    server.put(odd)
    server.put(pod(2))
    wait_until(lambda: names(watch) == {"pod-2"})
    assert len(lists(server)) == 1
    assert "is left out" in caplog.text
    assert "etc" not in caplog.text


def test_ten_thousand_events_in_a_flood_end_in_the_right_state(server, opened):
    watch = watch_of(server, opened, most_pods=200)
    wait_until(lambda: server.watching)
    for turn in range(10_000):
        server.put(pod(turn % 50, labels={"job-name": f"turn-{turn}"}))
    wait_until(lambda: watch._version == str(server.version), seconds=30)
    assert {found.labels["job-name"] for found in watch.known.pods.values()} == {
        f"turn-{turn}" for turn in range(9_950, 10_000)
    }
    assert len(lists(server)) == 1


def test_pods_beyond_the_bound_are_left_out_and_counted(server, opened):
    server.put(*(pod(n) for n in range(5)))
    watch = watch_of(server, opened, most_pods=3)
    wait_until(lambda: server.watching)
    assert (len(watch.known.pods), watch.known.left_out) == (3, 2)
    server.put(pod(9))
    wait_until(lambda: watch.known.left_out == 3)
    server.put(pod(9, labels={"job-name": "told of again"}), pod(0, labels={"job-name": "changed"}))
    wait_until(lambda: watch.known.pods[uid_of(0)].labels)
    assert watch.known.left_out == 3
    assert names(watch) == {"pod-0", "pod-1", "pod-2"}
    assert len(lists(server)) == 1


def test_pods_that_were_left_out_are_taken_up_when_others_go(server, opened):
    server.put(*(pod(n) for n in range(5)))
    watch = watch_of(server, opened, most_pods=3)
    wait_until(lambda: server.watching)
    server.delete(4)
    wait_until(lambda: watch.known.left_out == 1)
    server.delete(0)
    wait_until(lambda: names(watch) == {"pod-1", "pod-2", "pod-3"} and watch.known.left_out == 0)
    wait_until(lambda: server.watching and watch._stream)
    assert watch.failure == ""
    asked = len(lists(server))
    server.delete(1)
    wait_until(lambda: names(watch) == {"pod-2", "pod-3"})
    server.put(pod(9))
    wait_until(lambda: "pod-9" in names(watch))
    assert len(lists(server)) == asked


def test_an_endless_line_is_given_up(server, opened, monkeypatch):
    monkeypatch.setattr(api, "_LARGEST_LINE", 100_000)
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    server.send(b"x" * 300_000)
    wait_until(lambda: "a line has more than" in watch.failure)


def test_a_huge_answer_is_given_up(server, opened, monkeypatch):
    monkeypatch.setattr(api, "_LARGEST_ANSWER", 10_000)
    server.answer = b" " * 200_000
    watch = watch_of(server, opened)
    wait_until(lambda: "answers too much" in watch.failure)


def test_a_list_without_an_end_is_given_up(server, opened, monkeypatch):
    monkeypatch.setattr(pods, "_MOST_PAGES", 3)
    server.answer = b'{"items": [], "metadata": {"resourceVersion": "1", "continue": "more"}}'
    watch = watch_of(server, opened)
    wait_until(lambda: "more than 3 pages" in watch.failure)


def test_a_node_without_pods_is_doubted_once(server, opened, caplog):
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    server.forget()
    wait_until(lambda: len(lists(server)) == 2 and server.watching)
    assert watch.known.complete
    assert sum("set jobs.kubernetes.node_name" in record.getMessage() for record in caplog.records) == 1


def test_closing_ends_a_watch_that_waits(server, opened):
    watch = watch_of(server, opened)
    wait_until(lambda: server.watching)
    watch.close()
    assert not watch._thread.is_alive()
    assert watch.failure == ""


def test_proxies_and_netrc_of_the_environment_are_not_used(server, opened, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.put(pod(1))
    watch = watch_of(server, opened)
    wait_until(lambda: names(watch) == {"pod-1"})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = dt.datetime.now(dt.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key").write_bytes(key.private_bytes(*plain))
    return str(folder / "ca.crt"), str(folder / "key")


@pytest.fixture
def tls_server(certificate):
    server = ApiServer(tls=certificate)
    yield server
    server.close()


def test_the_token_goes_over_tls_and_is_read_again_when_it_rotates(tls_server, opened, certificate, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    token.write_text("first-secret\n")
    tls_server.put(pod(1))
    watch = watch_of(tls_server, opened, token_file=str(token), ca_file=certificate[0])
    wait_until(lambda: tls_server.watching)
    assert names(watch) == {"pod-1"}
    token.write_text("second-secret\n")
    tls_server.drop_watches()
    wait_until(lambda: len(watches(tls_server)) == 2 and tls_server.watching)
    sent = [headers["Authorization"] for _, _, headers in tls_server.requests]
    assert sent == ["Bearer first-secret", "Bearer first-secret", "Bearer second-secret"]
    tls_server.refuse = 401
    tls_server.drop_watches()
    wait_until(lambda: watch.failure)
    assert "secret" not in watch.failure + caplog.text


def test_a_server_that_the_ca_did_not_sign_gets_no_token(tls_server, opened, tmp_path):
    (tmp_path / "token").write_text("secret")
    watch = watch_of(tls_server, opened, token_file=str(tmp_path / "token"))
    wait_until(lambda: watch.failure)
    assert "is not trusted" in watch.failure
    assert "jobs.kubernetes.ca_file" in watch.failure
    assert tls_server.requests == []


def test_a_server_without_tls_is_no_matter_of_certificates(server, opened, certificate, tmp_path):
    (tmp_path / "token").write_text("secret")
    asked = Api(server.url.replace("http:", "https:"), str(tmp_path / "token"), certificate[0])
    with pytest.raises(api.ApiError, match="speaks no TLS") as caught:
        asked.get("/api/v1/pods", {})
    assert "certificate" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("content", [None, b"two words", b"a\x00b", b"\xff"])
def test_a_token_that_cannot_be_used_is_a_failure_that_names_the_file(opened, tmp_path, content):
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    asked = Api("https://127.0.0.1:1", str(token), "")
    with pytest.raises(api.ApiError, match=str(token)) as caught:
        asked.get("/api/v1/pods", {})
    assert "words" not in str(caught.value)


def test_a_missing_ca_file_is_a_failure_that_names_it(opened, tmp_path):
    asked = Api("https://127.0.0.1:1", "", str(tmp_path / "no-such-ca"))
    with pytest.raises(api.ApiError, match="no-such-ca"):
        asked.get("/api/v1/pods", {})


def test_no_token_goes_over_plain_http(server, opened, tmp_path):
    (tmp_path / "token").write_text("secret")
    watch = watch_of(server, opened, token_file=str(tmp_path / "token"))
    wait_until(lambda: watch.known.complete)
    assert all("Authorization" not in headers for _, _, headers in server.requests)


def test_outside_of_a_cluster_nothing_is_asked_and_nothing_fails():
    threads = threading.active_count()
    resolver = open_in(Settings(), Roots(), {})
    reading = resolver.read(1.0, frozenset(), frozenset())
    resolver.restore(resolver.state())
    resolver.close()
    assert isinstance(resolver, NoCluster)
    assert (reading.present, reading.jobs, reading.failures) == (False, (), ())
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("environment", "settings", "url", "node"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, {}, "https://10.0.0.1:6443", None),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "NODE_NAME": "n7"}, {}, "https://[fd00::1]:443", "n7"),
        ({"NODE_NAME": "n7"}, {"api_url": "http://localhost:8001/", "node_name": "n8"}, "http://localhost:8001", "n8"),
    ],
)
def test_where_to_ask_and_for_which_node(environment, settings, url, node):
    resolver = open_in(Settings(**settings), Roots(), environment)
    assert resolver._watch._api.url == url
    assert node is None or resolver._watch._node == node
    assert resolver._watch._node


def test_a_bad_url_is_told_what_a_good_one_is():
    with pytest.raises(ConfigurationError) as caught:
        validated(Settings, {"api_url": "10.0.0.1:6443"}, "jobs.kubernetes")
    assert str(caught.value) == "jobs.kubernetes.api_url: must be http://HOST[:PORT] or https://HOST[:PORT]"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_url", "ftp://x"),
        ("api_url", "https://user:password@host"),
        ("info_labels", {"training_job": "x"}),
        ("info_labels", {"pod_namespace": "x"}),
        ("info_labels", {"__name__": "x"}),
        ("info_labels", {"Team": "x"}),
        ("most_pods", 0),
    ],
)
def test_bad_settings_are_refused_by_their_key(key, value):
    with pytest.raises(ConfigurationError, match=f"^jobs.kubernetes.{key}") as caught:
        validated(Settings, {key: value}, "jobs.kubernetes")
    assert "password" not in str(caught.value)
