import json
import shlex
from pathlib import Path

import pytest
from assertions import assert_help_is_light, assert_one_line
from recorded_tool import record_tool

from tools.launch_tpu import main

JOBSET = ["jobset", "--name=dlrm", "--image=registry/recjax:1"]
XPK = ["xpk", "--name=dlrm", "--image=registry/recjax:1", "--cluster=c", "--project=p", "--zone=z"]
SSH = ["ssh", "--name=my-tpu", "--project=p", "--zone=z"]


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    assert main([*arguments[:at], "--dry-run", *arguments[at:]]) == 0
    return capsys.readouterr().out


def manifest_of(output: str) -> dict:
    first, rest = output.split("\n", 1)
    assert first == "kubectl apply -f - <<'EOF'"
    return json.loads(rest.removesuffix("EOF\n"))


@pytest.mark.parametrize(
    ("accelerator", "label", "topology", "hosts", "chips"),
    [
        ("v5e-16", "tpu-v5-lite-podslice", "4x4", 4, 4),
        ("v6e-8", "tpu-v6e-slice", "2x4", 1, 8),
        ("v5p-64", "tpu-v5p-slice", "2x4x4", 8, 4),
        ("v4-8", "tpu-v4-podslice", "2x2x1", 1, 4),
        ("tpu7x-32", "tpu7x", "2x2x4", 4, 4),
    ],
)
def test_jobset_asks_for_the_hosts_of_the_slice(
    accelerator: str, label: str, topology: str, hosts: int, chips: int, capsys: pytest.CaptureFixture[str]
) -> None:
    output = dry_run(
        capsys, *JOBSET, f"--accelerator={accelerator}", "--", "--suite=quick", "--set", "dataset.ratios=.8, .1, .1"
    )
    manifest = manifest_of(output)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == job["completions"] == hosts
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    assert pod["tolerations"] == [{"key": "google.com/tpu", "operator": "Exists"}]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert container["command"] == [
        *(
            "python3",
            "-m",
            "benchmarks.run",
            "--device=tpu",
            "--parallel=pjit",
            "--suite=quick",
            "--set",
            "dataset.ratios=.8, .1, .1",
        )
    ]
    assert manifest["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }


def test_jobset_options_reach_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--accelerator=v6e-8",
        "--chips-per-host=4",
        "--namespace=n",
        "--queue=q",
        "--claim=c",
        "--max-restarts=2",
    ]
    manifest = manifest_of(dry_run(capsys, *JOBSET, *options, "--python=/venv/bin/python"))
    assert manifest["metadata"]["namespace"] == "n"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"}
    assert manifest["spec"]["failurePolicy"] == {"maxRestarts": 2}
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == 2
    assert job["template"]["spec"]["containers"][0]["command"][0] == "/venv/bin/python"
    assert {"name": "results", "persistentVolumeClaim": {"claimName": "c"}} in job["template"]["spec"]["volumes"]


def test_xpk(capsys: pytest.CaptureFixture[str]) -> None:
    output = dry_run(capsys, *XPK, "--accelerator=v5e-16", "--", "--set", "dataset.source='x y'")
    *start, command = shlex.split(output)
    assert start == [
        *("xpk", "workload", "create", "--workload=dlrm", "--cluster=c", "--project=p", "--zone=z"),
        *("--tpu-type=v5litepod-16", "--num-slices=1", "--docker-image=registry/recjax:1"),
    ]
    assert shlex.split(command.removeprefix("--command=")) == [
        *("python3", "-m", "benchmarks.run", "--device=tpu", "--parallel=pjit", "--set", "dataset.source='x y'")
    ]


def test_xpk_restarts_after_the_exit_code_of_a_lost_peer(capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(dry_run(capsys, *XPK, "--accelerator=v6e-16", "--max-restarts=3"))
    assert words[-2:] == ["--max-restarts=3", "--restart-on-user-code-failure"]


def test_ssh_runs_on_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _ = record_tool("gcloud", tmp_path, monkeypatch)
    assert main([*SSH, "--folder=my recjax", "--python=.venv/bin/python", "--", "--suite=quick"]) == 0
    assert arguments.read_text().splitlines() == [
        *("compute", "tpus", "tpu-vm", "ssh", "my-tpu", "--project=p", "--zone=z", "--worker=all"),
        "--command=cd 'my recjax' && .venv/bin/python -m benchmarks.run --device=tpu --parallel=pjit --suite=quick",
    ]


def test_dry_run_of_ssh(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        shlex.split(dry_run(capsys, *SSH))[-1]
        == "--command=cd recjax && python3 -m benchmarks.run --device=tpu --parallel=pjit"
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([*JOBSET, "--accelerator=v5e-17"], ["unknown TPU slice 'v5e-17'", "v5e-16 (4x4)"]),
        ([*XPK, "--accelerator=v9-8"], ["unknown TPU generation 'v9'", "v4, v5e, v5p, v6e, v7x"]),
        ([*JOBSET[:1], "--name=A_B", "--image=i", "--accelerator=v5e-16"], ["--name='A_B' cannot be"]),
        ([*SSH, "--dry-run", "--", "--device=cpu"], ["--device is set by the launcher, to tpu"]),
    ],
)
def test_unusable_input_is_one_line(arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert_one_line(output.err, *parts)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "required: jobset|xpk|ssh"),
        (["slurm"], "invalid choice: 'slurm'"),
        (JOBSET, "required: --accelerator"),
        (["ssh", "--name=t"], "required: --project, --zone"),
        ([*JOBSET, "--accelerator=v5e-16", "--max-restarts=-1"], "'-1' is no whole number of at least 0"),
    ],
)
def test_unusable_arguments_are_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert_one_line(capsys.readouterr().err, part, "--help")


def test_a_missing_tool_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for arguments, tool in ((JOBSET, "kubectl"), (XPK, "xpk"), (SSH, "gcloud")):
        assert main([*arguments, *(["--accelerator=v5e-16"] * (arguments is not SSH))]) == 2
        assert_one_line(capsys.readouterr().err, f"{tool} is not installed here")


def test_help_is_light() -> None:
    assert_help_is_light("tools.launch_tpu", "jobset|xpk|ssh")
