import json
import subprocess
from pathlib import Path

import pytest
from assertions import assert_help_is_light, assert_one_line
from recorded_tool import record_tool

from recjax.parallel.cluster import find_place
from tools.launch_gpu import main

SIZES = ["--hosts=2", "--gpus-per-host=8"]
SLURM = ["slurm", *SIZES, "--name=dlrm", "--time=02:00:00"]
JOBSET = ["jobset", *SIZES, "--name=dlrm", "--image=registry/recjax:1"]


def test_slurm_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, script = record_tool("sbatch", tmp_path, monkeypatch)
    options = ["--partition=gpu", "--account=team", "--folder=/shared/recjax", "--requeue", "--python=.venv/bin/python"]
    command = [*SLURM, *options, "--", "--suite=quick", "--set", "dataset.ratios=.8, .1, .1"]
    expected = [
        "#!/bin/bash",
        "#SBATCH --job-name=dlrm",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --time=02:00:00",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=team",
        "#SBATCH --chdir=/shared/recjax",
        "#SBATCH --requeue",
        "srun --kill-on-bad-exit=1 .venv/bin/python -m benchmarks.run --device=gpu --parallel=pjit --suite=quick "
        "--set 'dataset.ratios=.8, .1, .1'",
    ]
    assert main(command) == 0
    assert script.read_text().splitlines() == expected
    script.unlink()
    at = command.index("--")
    assert main([*command[:at], "--dry-run", *command[at:]]) == 0
    output = capsys.readouterr().out
    assert output.splitlines() == ["sbatch <<'EOF'", *expected, "EOF"]
    assert not script.exists()
    subprocess.run(["sh"], input=output, text=True, check=True)
    assert script.read_text().splitlines() == expected
    assert arguments.read_text() == "\n"
    subprocess.run(["bash", "-n", script], check=True)


def test_jobset_tells_each_pod_where_process_0_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main([*JOBSET, "--node-selector=gpu=h100", "--node-selector=zone=a=b", "--dry-run", "--", "--suite=quick"]) == 0
    )
    manifest = json.loads(capsys.readouterr().out.split("\n", 1)[1].removesuffix("EOF\n"))
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["parallelism"] == job["completions"] == 2
    assert pod["nodeSelector"] == {"gpu": "h100", "zone": "a=b"}
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["command"] == [
        "python3",
        "-m",
        "benchmarks.run",
        "--device=gpu",
        "--parallel=pjit",
        "--suite=quick",
    ]

    # What Kubernetes makes of it for the second pod is what `start` reads.
    annotations = {
        "metadata.annotations['jobset.sigs.k8s.io/jobset-name']": manifest["metadata"]["name"],
        "metadata.annotations['jobset.sigs.k8s.io/replicatedjob-name']": replicated["name"],
    }
    for variable in container["env"]:
        value = (
            variable["value"] if "value" in variable else annotations[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        )
        monkeypatch.setenv(variable["name"], value)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    place = find_place()
    assert place is not None
    assert (place.coordinator, place.processes, place.process) == ("dlrm-workers-0-0.dlrm:8476", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([*JOBSET, "--node-selector=h100"], "--node-selector='h100' cannot be; give LABEL=VALUE"),
        ([*SLURM, "--partition=a b"], "--partition=a b cannot stand in a job script"),
        ([*SLURM[:-2], "--name=A", "--time=1"], "--name='A' cannot be"),
        ([*SLURM, "--", "--device=gpu"], "--device is set by the launcher, to gpu"),
        ([*SLURM, "--", "--suite=zooo"], "unknown suite 'zooo'"),
        ([*SLURM, "--", "--mesh=data"], "--mesh is 'data'; allowed: "),
        ([*SLURM, "--", "--set", "training.epoch=1"], "did you mean 'epochs'?"),
    ],
)
def test_unusable_input_is_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert_one_line(capsys.readouterr().err, part)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "required: slurm|jobset"),
        (["slurm", "--hosts=0"], "argument --hosts: 0 is less than 1"),
        (["slurm", "--hosts=two"], "'two' is no whole number"),
        (JOBSET[:-1], "required: --image"),
        ([*SLURM, "--", "--siute=zoo"], "unrecognized arguments: --siute=zoo"),
    ],
)
def test_unusable_arguments_are_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert_one_line(capsys.readouterr().err, part, "--help")


def test_a_missing_tool_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for arguments, tool in ((SLURM, "sbatch"), (JOBSET, "kubectl")):
        assert main(arguments) == 2
        assert_one_line(capsys.readouterr().err, f"{tool} is not installed here")


def test_help_is_light() -> None:
    assert_help_is_light("tools.launch_gpu", "slurm|jobset")
