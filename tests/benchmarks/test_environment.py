import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.environment import describe_environment
from recjax.hardware import software
from recjax.hardware.ceilings import Ceilings
from recjax.hardware.software import describe_git, describe_software, nvidia_driver


def test_flags_that_change_figures_are_kept_without_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(Path.home() / "cache" / "jax"))
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={Path.home()}/dump --xla_force_host_platform_device_count=8")
    monkeypatch.setenv("SECRET_TOKEN", "1")
    flags = describe_software()["flags"]
    assert flags["JAX_COMPILATION_CACHE_DIR"] == "~/cache/jax"
    assert flags["XLA_FLAGS"] == "--xla_dump_to=~/dump --xla_force_host_platform_device_count=8"
    assert "SECRET_TOKEN" not in flags


def test_an_extra_is_named_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "EXTRAS", ("pytest", "no-such-package-of-recjax"))
    versions = describe_software()["versions"]
    assert versions["pytest"] == pytest.__version__
    assert "no-such-package-of-recjax" not in versions
    assert versions["scipy"] == importlib.metadata.version("scipy")
    assert {"orbax-checkpoint", "pyarrow"} <= versions.keys()


def git(folder: Path, *arguments: str) -> None:
    own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(("git", *own, *arguments), cwd=folder, check=True, capture_output=True)


def test_two_modified_trees_of_one_commit_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "REPOSITORY", tmp_path)
    assert describe_git() == {"commit": None, "modified": None}
    git(tmp_path, "init")
    file = tmp_path / "a"
    file.write_bytes(b"1\n")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    clean = describe_git()
    assert clean == {"commit": clean["commit"], "modified": False}
    (tmp_path / "untracked").touch()
    assert describe_git() == clean | {"modified": True}
    states = []
    for content in (b"2\n", b"\xff\n", b"2\n"):  # the second is no UTF-8
        file.write_bytes(content)
        states.append(describe_git())
    assert states[0] == states[2] != states[1]
    assert len(states[0]["diff"]) == 16


class FakeNVMLError(Exception):
    """Stands for pynvml's own."""


def fake_pynvml(*, works: bool) -> SimpleNamespace:
    def init() -> None:
        if not works:
            raise FakeNVMLError("Driver Not Loaded")

    return SimpleNamespace(
        NVMLError=FakeNVMLError,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.65.06",
    )


@pytest.mark.parametrize(
    ("module", "version"), [(fake_pynvml(works=True), "580.65.06"), (fake_pynvml(works=False), None), (None, None)]
)
def test_the_driver_of_a_gpu_is_that_of_nvml(
    module: SimpleNamespace | None, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)  # None: it is not installed
    assert nvidia_driver() == version
    ceilings = Ceilings(flops_per_s={}, bytes_per_s=1.0)
    for platform, known in (("gpu", {"nvidia_driver": version}), ("cpu", {})):
        device: object = SimpleNamespace(platform=platform, client=SimpleNamespace(platform_version="cuda 13000"))
        environment = describe_environment(device, ceilings)  # type: ignore[arg-type]
        assert environment["driver"] == "cuda 13000"
        assert {name: value for name, value in environment.items() if name == "nvidia_driver"} == known
