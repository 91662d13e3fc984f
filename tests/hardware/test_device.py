import os
import subprocess
import sys

import jax
import pytest

from recjax.errors import DeviceError, UserError
from recjax.hardware.device import EXAMPLES, describe_device, peak_memory_bytes, select_device
from recjax.processor import cpu_model


def test_cpu_is_selected_and_becomes_the_default() -> None:
    devices = select_device("cpu")
    assert [device.platform for device in devices] == ["cpu"] * len(jax.devices("cpu"))
    assert jax.config.jax_default_device == devices[0]


@pytest.mark.parametrize(
    ("name", "remedy"), [("gpu", "pip install -e '.[bench,gpu]'"), ("tpu", "pip install -e '.[bench,tpu]'")]
)
def test_an_absent_device_is_an_error_that_names_what_was_found(name: str, remedy: str) -> None:
    with pytest.raises(DeviceError) as caught:
        select_device(name)
    message = str(caught.value)
    assert message.startswith(f"no {name} device: JAX {jax.__version__} found cpu:0")
    assert remedy in message
    assert f"recjax plan CONFIG --devices {EXAMPLES[name]}" in message
    assert f"benchmarks.run --device={name} --estimate" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "nearest"), [("cpus", "cpu"), ("GPU", None), ("tpuv4", "tpu"), ("cuda", "gpu"), ("", None)]
)
def test_an_unknown_device_is_refused_with_the_nearest_match(name: str, nearest: str | None) -> None:
    with pytest.raises(UserError) as caught:
        select_device(name)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    assert str(caught.value) == f"unknown device {name!r}; valid: cpu, gpu, tpu{hint}"


def test_a_platform_that_jax_platforms_alone_allows_is_reported_in_one_line() -> None:
    # JAX_PLATFORMS=cuda without CUDA leaves JAX with no device at all, not even the one the message would name.
    code = "from recjax.command_line import run_command; from recjax.hardware.device import select_device as select\n"
    code += "import sys; sys.exit(run_command(lambda: select('gpu') and 0))"
    environment = os.environ | {"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no gpu device")
    assert done.stderr.count("\n") == 1


def test_a_cpu_run_starts_no_other_backend() -> None:
    # A misconfigured GPU must not break a CPU run, so the environment's wish is overruled before JAX starts.
    code = "import jax; from recjax.hardware.device import select_device; print(select_device('cpu')[0].platform)\n"
    code += "print(jax.config.jax_platforms, jax.numpy.ones(2).devices().pop().platform)"
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "cpu", "cpu"]


def test_a_device_is_described_by_platform_kind_and_count() -> None:
    described = describe_device(select_device("cpu"))
    assert described == {"platform": "cpu", "kind": cpu_model(), "count": 1, "mesh": None}


def test_the_cpu_keeps_no_count_of_its_memory() -> None:
    assert peak_memory_bytes(select_device("cpu")[0]) is None
