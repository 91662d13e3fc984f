import os
import subprocess
import sys

import pytest

from recjax.errors import DeviceError, UserError
from recjax.hardware.facts import chips, find_chip
from recjax.hardware.topology import absent_devices, environment, gpu_target_config, missing_compiler, parse_target

EACH = ["v4:2x2x1", "v5e:4x4", "v5p:2x2x2", "v6e:1x1", "v7x:2x2x1", "tpu7x:2x2x1"]
GPUS = ["a100-40gb:8", "a100-80gb:1", "h100:8", "h200:8", "b200:4"]


@pytest.mark.parametrize(
    ("text", "chips", "devices"),
    [("v5e:4x4", 16, 16), ("v5p:2x2x2", 8, 8), ("v7x:2x2x1", 4, 8), ("tpu7x:2x2x1", 4, 8), (" h200:8 ", 8, 8)],
)
def test_a_target_is_a_chip_and_how_many(text: str, chips: int, devices: int) -> None:
    target = parse_target(text)
    assert (target.n_chips, target.n_devices, target.name) == (chips, devices, text.strip())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5:4x4", "unknown accelerator 'v5'; valid: a100-40gb, .*; did you mean 'v5p'?"),
        (
            "v5e",
            "device 'v5e': its size is missing; allowed: chips along 2 axes, at most 256 in all, as v5e:4x4",
        ),
        ("v5e:16", "16 is no size of a v5e"),
        ("v5e:4x4x4", "4x4x4 is no size of a v5e"),
        ("v5p:4x4", "4x4 is no size of a v5p; allowed: chips along 3 axes, at most 8960 in all, as v5p:2x2x1"),
        ("v5e:32x32", "32x32 is no size of a v5e"),
        ("v5e:0x4", "0x4 is no size of a v5e"),
        ("v5e:4xfour", "4xfour is no size"),
        ("h200:16", "16 is no size of a h200; allowed: 1 to 8 GPUs of one server, as h200:8"),
        ("h200:2x4", "2x4 is no size of a h200"),
        ("", "unknown accelerator ''"),
    ],
)
def test_another_target_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_target(text)
    found, expected = str(caught.value), message.replace(".*", "")
    assert "\n" not in found
    assert expected in found or all(part in found for part in message.split(".*"))


@pytest.mark.parametrize("chip", [chip for chip in chips().values() if chip.platform == "cuda"], ids=lambda c: c.name)
def test_a_gpu_is_described_by_its_facts(chip) -> None:
    text = gpu_target_config(chip)
    assert f"device_memory_size: {chip.hbm_bytes}\n" in text
    assert f"core_count: {chip.xla['core_count']}\n" in text
    assert f'device_description_str: "{chip.device_kinds[0]}"' in text
    major, minor = chip.compute_capability.split(".")
    assert f"cuda_compute_capability {{ major: {major} minor: {minor} }}" in text


def test_a_process_that_was_started_otherwise_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    target = parse_target("v5e:2x2")
    for key in environment(target):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr("recjax.hardware.topology.missing_compiler", lambda platform: None)
    with pytest.raises(DeviceError, match=r"compiling for v5e:2x2 needs a process that was started with JAX_PLATFORMS"):
        absent_devices(target)


@pytest.mark.parametrize(("platform", "extra"), [("tpu", "tpu"), ("cuda", "gpu")])
def test_a_compiler_that_is_not_installed_is_one_line(
    platform: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = missing_compiler(platform)
    assert missing is not None
    assert missing.endswith(f"pip install -e '.[{extra}]' in the repository")


def listed(target_name: str) -> str:
    code = (
        "from recjax.hardware.topology import absent_devices, parse_target\n"
        f"devices = absent_devices(parse_target({target_name!r}))\n"
        "print(len(devices), devices[0].device_kind)"
    )
    settings = os.environ | environment(parse_target(target_name))
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.tpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_a_slice_has_the_devices_that_facts_say(name: str) -> None:
    target = parse_target(name)
    count, _, kind = listed(name).partition(" ")
    assert int(count) == target.n_devices
    assert kind in target.chip.device_kinds


@pytest.mark.gpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", GPUS)
def test_a_server_has_the_devices_that_facts_say(name: str) -> None:
    target = parse_target(name)
    assert listed(name) == f"{target.n_devices} {find_chip(target.chip.name).device_kinds[0]}"
