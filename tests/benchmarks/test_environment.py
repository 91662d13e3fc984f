from pathlib import Path

import pytest

from recjax.hardware.software import describe_software


def test_flags_that_change_figures_are_kept_without_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(Path.home() / "cache" / "jax"))
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={Path.home()}/dump --xla_force_host_platform_device_count=8")
    monkeypatch.setenv("SECRET_TOKEN", "1")
    flags = describe_software()["flags"]
    assert flags["JAX_COMPILATION_CACHE_DIR"] == "~/cache/jax"
    assert flags["XLA_FLAGS"] == "--xla_dump_to=~/dump --xla_force_host_platform_device_count=8"
    assert "SECRET_TOKEN" not in flags
