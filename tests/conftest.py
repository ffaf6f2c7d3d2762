"""What all tests share: real servers are skipped with a reason where they are missing, or fail when required."""

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest
from nvml_shim import Shim, build
from scripted import ScriptedNode

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """need("prometheus") gives the program's path; where it is missing the test is skipped, or fails if
    CARBON_REQUIRE_REAL=1."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is not None:
            return path
        reason = f"{program} is not on the PATH: apt-get install {program}"
        if os.environ.get("CARBON_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    return find


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def nvml_library(need, tmp_path_factory) -> Path:
    need("gcc")
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def load_nvml(monkeypatch, tmp_path) -> Callable[[Path], Shim]:
    """Put a shim where pynvml keeps the library it has loaded; pynvml's own search runs in the subprocess tests."""

    def put(built: Path) -> Shim:
        shim = Shim(tmp_path / "shim", built)
        monkeypatch.setenv("NVML_SHIM", str(shim.control))
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(shim.lib)))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return shim

    return put


@pytest.fixture
def scripted_node(tmp_path) -> Iterator[ScriptedNode]:
    node = ScriptedNode(tmp_path)
    yield node
    node.sampler.close()
