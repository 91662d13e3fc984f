import pytest

from recjax.errors import UserError
from recjax.parallel import cluster
from recjax.parallel.cluster import Place, find_place, split_address

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
JOBSET = {
    "JOBSET_NAME": "bench",
    "REPLICATED_JOB_NAME": "workers",
    "JOB_COMPLETION_INDEX": "3",
    "RECJAX_PROCESSES": "4",
}
BY_HAND = {"RECJAX_COORDINATOR": "10.0.0.1:8476", "RECJAX_PROCESSES": "2", "RECJAX_PROCESS": "1"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what this machine may say of clusters."""
    for name in (
        *SLURM,
        *JOBSET,
        *BY_HAND,
        "OMPI_MCA_orte_hnp_uri",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "JAX_COORDINATOR_PORT",
    ):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_alone() -> None:
    assert find_place() is None


def test_by_hand_and_arguments_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, BY_HAND)
    assert find_place() == Place(coordinator="10.0.0.1:8476", processes=2, process=1, found_by="arguments")
    assert find_place("h:1", 8, 0) == Place(coordinator="h:1", processes=8, process=0, found_by="arguments")
    set_all(monkeypatch, SLURM | JOBSET | {"RECJAX_PROCESSES": "2"})
    assert find_place() == Place(coordinator="10.0.0.1:8476", processes=2, process=1, found_by="arguments")


@pytest.mark.parametrize("missing", list(BY_HAND))
def test_by_hand_names_what_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {name: value for name, value in BY_HAND.items() if name != missing})
    with pytest.raises(UserError, match=rf"a run on several processes needs .*; .* is given, {missing} is missing$"):
        find_place()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RECJAX_PROCESSES": "two"}, r"^RECJAX_PROCESSES='two' is no number; give a whole number of at least 0$"),
        ({"RECJAX_PROCESS": "-1"}, r"^RECJAX_PROCESS='-1' is no number"),
        (
            {"RECJAX_PROCESS": "2"},
            r"^process 2 of 2 cannot be; give RECJAX_PROCESSES of at least 1 and a RECJAX_PROCESS",
        ),
        ({"RECJAX_PROCESSES": "0"}, r"^process 1 of 0 cannot be"),
        ({"RECJAX_COORDINATOR": "10.0.0.1"}, r"^coordinator '10.0.0.1' is no address; give host:port with a port of 1"),
        ({"RECJAX_COORDINATOR": "h:70000"}, r"^coordinator 'h:70000' is no address"),
    ],
)
def test_by_hand_values_that_cannot_be(values: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, BY_HAND | values)
    with pytest.raises(UserError, match=message):
        find_place()


def test_split_address() -> None:
    assert split_address("node-1.cluster:8476") == ("node-1.cluster", 8476)
    assert split_address("[fe80::1]:65535") == ("fe80::1", 65_535)


def test_slurm_with_a_process_a_host_has_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SLURM)
    assert find_place() == Place(coordinator="node007:61440", processes=2, process=1, found_by="Slurm")


def test_slurm_with_processes_that_share_a_host_has_one_device_each(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SLURM | {"SLURM_NTASKS": "16", "SLURM_PROCID": "11", "SLURM_LOCALID": "3"})
    place = find_place()
    assert place is not None
    assert (place.processes, place.process, place.local_device_ids) == (16, 11, (3,))


def test_slurm_with_one_task_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    place = find_place()
    assert place is not None
    assert place.processes == 1


def test_slurm_outside_of_a_step_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"})
    assert find_place() is None


def test_a_pod_of_a_jobset_knows_process_0_by_its_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, JOBSET)
    assert find_place() == Place(coordinator="bench-workers-0-0.bench:8476", processes=4, process=3, found_by="JobSet")


@pytest.mark.parametrize("missing", ["REPLICATED_JOB_NAME", "JOB_COMPLETION_INDEX", "RECJAX_PROCESSES"])
def test_a_pod_that_knows_too_little_does_not_run_alone(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {name: value for name, value in JOBSET.items() if name != missing})
    with pytest.raises(UserError, match=rf"^JOBSET_NAME is set, {missing} is not: several pods would run as if alone"):
        find_place()


@pytest.fixture
def gke_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets what GKE sets in the pods of a TPU slice of two hosts; empty MEGASCALE values keep JAX off the network."""
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    set_all(monkeypatch, {"TPU_WORKER_HOSTNAMES": "localhost,localhost.two", "TPU_WORKER_ID": "1"})
    set_all(
        monkeypatch, dict.fromkeys(("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"), "")
    )
    monkeypatch.delenv("TPU_PROCESS_ADDRESSES", raising=False)


@pytest.mark.usefixtures("gke_slice")
def test_a_tpu_slice_is_found_by_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Place(coordinator="localhost:8482", processes=2, process=1, found_by="TPU slice on GKE")
    assert find_place() == expected
    monkeypatch.setenv("JOBSET_NAME", "bench")  # a JobSet around the slice changes nothing
    assert find_place() == expected


@pytest.mark.usefixtures("gke_slice")
def test_a_slice_of_one_host_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    place = find_place()
    assert place is not None
    assert place.processes == 1
    monkeypatch.setenv("JOBSET_NAME", "bench")  # nor does a JobSet around it make it more
    assert find_place() == place


@pytest.mark.usefixtures("gke_slice")
def test_a_slice_whose_first_host_has_no_known_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "nowhere.invalid,localhost")
    with pytest.raises(
        UserError, match=r"^this is a TPU slice on GKE, and its process 0 cannot be found: Failed to rec"
    ):
        find_place(timeout_s=0.0)


def test_all_of_jax_clusters_are_there() -> None:
    from jax._src.clusters import ClusterEnv

    assert set(cluster.JAX_CLUSTERS) <= {known.__name__ for known in ClusterEnv._cluster_types}
