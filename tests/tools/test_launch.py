import json
import subprocess
from pathlib import Path

import pytest
from recorded_tool import record_tool

from recjax.errors import UserError
from tools.launch import apply_manifest, benchmark_command, check_name, jobset, split_arguments, submit

MANIFEST = jobset(
    name="dlrm",
    namespace="recommenders",
    image="registry/recjax:1",
    command=["python3", "-m", "benchmarks.run"],
    hosts=4,
    resource="nvidia.com/gpu",
    devices_per_host=8,
    node_selector={"pool": "h100"},
    queue="team",
    claim="results",
    max_restarts=3,
)


def test_split_arguments() -> None:
    assert split_arguments(["--name=a", "--", "--suite=quick", "--", "x"]) == (
        ["--name=a"],
        ["--suite=quick", "--", "x"],
    )
    assert split_arguments(["--name=a"]) == (["--name=a"], [])


def test_benchmark_command() -> None:
    assert benchmark_command("py", "tpu", ["--suite=quick"]) == [
        *("py", "-m", "benchmarks.run", "--device=tpu", "--parallel=pjit", "--suite=quick")
    ]
    for rest in (["--device=cpu"], ["--device", "cpu"]):
        with pytest.raises(UserError, match="--device is set by the launcher, to gpu; leave it out after --"):
            benchmark_command("py", "gpu", rest)


@pytest.mark.parametrize("name", ["", "DLRM", "1st", "a_b", "a-", "a" * 41])
def test_names_that_kubernetes_refuses(name: str) -> None:
    with pytest.raises(UserError, match=rf"^--name='{name}' cannot be; give up to 40 lower-case letters"):
        check_name(name)


def test_names() -> None:
    for name in ("a", "dlrm-zoo-2", "a" * 40):
        assert check_name(name) == name


def test_jobset_has_a_pod_a_host_and_restarts_as_a_whole() -> None:
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert MANIFEST["metadata"]["name"] == "dlrm"
    assert MANIFEST["metadata"]["namespace"] == "recommenders"
    assert MANIFEST["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    assert MANIFEST["spec"]["failurePolicy"] == {"maxRestarts": 3}
    assert MANIFEST["spec"]["network"] == {"enableDNSHostnames": True}
    (replicated,) = MANIFEST["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["name"], replicated["replicas"]) == ("workers", 1)
    assert (job["parallelism"], job["completions"], job["completionMode"], job["backoffLimit"]) == (4, 4, "Indexed", 0)
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {"pool": "h100"}
    (container,) = pod["containers"]
    assert container["image"] == "registry/recjax:1"
    assert container["command"] == ["python3", "-m", "benchmarks.run"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"shared-memory": "/dev/shm", "results": "/results"}
    assert [volume["name"] for volume in pod["volumes"]] == list(mounts)


def test_a_shell_can_run_what_a_dry_run_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, standard_input = record_tool("kubectl", tmp_path, monkeypatch)
    assert apply_manifest(MANIFEST, dry_run=True) == 0
    assert not arguments.exists()
    subprocess.run(["sh"], input=capsys.readouterr().out, text=True, check=True)
    assert arguments.read_text() == "apply\n-f\n-\n"
    assert json.loads(standard_input.read_text()) == MANIFEST
    standard_input.unlink()
    assert apply_manifest(MANIFEST, dry_run=False) == 0  # and the same without a shell
    assert json.loads(standard_input.read_text()) == MANIFEST


def test_the_exit_code_of_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_tool("sbatch", tmp_path, monkeypatch, code=7)
    assert submit(["sbatch"], "#!/bin/bash") == 7


def test_a_tool_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"^sbatch is not installed here; install it, or run what --dry-run prints on"):
        submit(["sbatch"], "#!/bin/bash")
