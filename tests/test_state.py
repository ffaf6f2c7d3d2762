"""The state file: written whole, believed only where it is this host's, never a reason to crash."""

import json
import subprocess
import sys

import pytest

from carbon_exporter.model import ConfigurationError, Roots
from carbon_exporter.node.state import Host, StateFile, this_host

HERE = Host("host-a", "boot-1")


@pytest.fixture
def state_file(tmp_path):
    return StateFile(tmp_path / "deep" / "node.json", HERE)


def test_what_was_saved_comes_back(state_file):
    state_file.save({"x": [1.5]})
    assert state_file.load() == ({"x": [1.5]}, True)
    assert [path.name for path in state_file.path.parent.iterdir()] == ["node.json"]


def test_no_file_is_a_quiet_start(state_file, caplog):
    assert state_file.load() is None
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (Host("host-a", "boot-2"), ({"x": 1}, False)),  # rebooted
        (Host("pod-xyz", "boot-1"), ({"x": 1}, True)),  # a container's name changes, the boot is the host's
        (Host("host-b", "boot-9"), None),
    ],
)
def test_only_this_host_is_believed(state_file, reader, expected):
    state_file.save({"x": 1})
    assert StateFile(state_file.path, reader).load() == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1,2]",
        b"null",
        b"\xff\x00\xfe",
        b'{"schema": 2}',
        b"[" * 100_000,
        json.dumps({"schema": 99, "host": "host-a", "boot_id": "boot-1", "body": {}}).encode(),
    ],
)
def test_a_torn_or_foreign_file_is_set_aside_and_said(state_file, content, caplog):
    state_file.path.parent.mkdir()
    state_file.path.write_bytes(content)
    assert state_file.load() is None
    assert not state_file.path.exists()
    assert state_file.path.with_name("node.json.unusable").read_bytes() == content
    assert len(caplog.messages) == 1
    assert str(state_file.path) in caplog.messages[0]


def test_a_kill_in_the_middle_of_saving_leaves_a_whole_file(tmp_path):
    path = tmp_path / "node.json"
    program = (
        "import sys; from pathlib import Path; from carbon_exporter.node.state import Host, StateFile\n"
        f"file = StateFile(Path({str(path)!r}), Host('host-a', 'boot-1'))\n"
        "print('up', flush=True)\n"
        "n = 0\n"
        "while True:\n    n += 1; file.save({'n': n, 'filler': 'x' * 200_000})\n"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            while not path.exists():
                pass
            writer.kill()
        loaded = StateFile(path, HERE).load()
        assert loaded is not None
        assert len(loaded[0]["filler"]) == 200_000


def test_this_host_reads_the_kernels_names(tmp_path):
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("abc\n")
    (tmp_path / "class/dmi/id").mkdir(parents=True)
    (tmp_path / "class/dmi/id/product_uuid").write_text("uuid-1\n")
    assert this_host(Roots(tmp_path, tmp_path)) == Host("uuid-1", "abc")


def test_a_proc_without_boot_id_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"node\.procfs: .*boot_id: No such file .*; mount"):
        this_host(Roots(tmp_path, tmp_path))
