import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.config import Experiment, Serving
from recjax.data.labelled import LabelledData
from recjax.load.queries import QueryMix
from recjax.models.bpr import BPRConfig
from recjax.models.ease import EASEConfig
from recjax.models.logistic_regression import LogisticRegressionConfig
from recjax.training.pipeline import one_batch, set_up
from recjax.training.step import init_params
from recjax.transforms import distill, prune, quantize, shrink
from recjax.transforms.protocol import chain
from recjax.transforms.serialised import from_json
from recjax.tuning.space import LARGEST_BUCKET, PLAIN, SHARES, Choose, Point, Space, ladder, space_of

ONE = QueryMix()
TABLE = {"items": {"table": np.zeros((4, 2))}}


@pytest.fixture(scope="module")
def dlrm_space(dlrm_experiment: Experiment, dlrm_params: dict) -> Space:
    return space_of(dlrm_experiment, dlrm_params, ONE, 1)


def point_chooser(point: Point) -> Choose:
    """Returns what answers from a point; a question that it has no answer to gets the first choice."""
    return lambda name, choices: point.get(name, choices[0])


def test_ladders_by_hand() -> None:
    assert ladder(64, 4, smallest=1) == (1, 4, 16, 64)
    assert ladder(64, 8, smallest=4) == (8, 64)
    assert ladder(1024, 2, smallest=64) == (64, 128, 256, 512, 1024)
    assert ladder(2, 2, smallest=2) == (2,)
    # Of twelve sizes the seven largest and the smallest are left.
    assert ladder(2048, 2, smallest=1) == (1, 32, 64, 128, 256, 512, 1024, 2048)


def test_what_a_model_has_is_what_can_be_chosen(
    dlrm_space: Space, sasrec_experiment: Experiment, dlrm_experiment: Experiment
) -> None:
    assert dlrm_space.structures == ("as_trained", "shrink", "prune_shrink", "student", "fewer_layers", "low_rank")
    assert dlrm_space.tables == ("float32", "bf16", "int8", "int4")
    assert not dlrm_space.attention
    sasrec = space_of(sasrec_experiment, TABLE, ONE, 1)
    assert {"fewer_heads", "fewer_layers"} <= set(sasrec.structures)
    assert sasrec.attention
    plain = space_of(dataclasses.replace(dlrm_experiment, model=LogisticRegressionConfig()), {}, ONE, 1)
    assert (plain.structures, plain.tables) == (("as_trained", "low_rank"), ("float32",))
    solved = space_of(dataclasses.replace(dlrm_experiment, model=EASEConfig()), {}, ONE, 1)
    assert solved.structures == ("as_trained", "low_rank")
    own = dataclasses.replace(dlrm_experiment, transforms=(quantize(),))
    space = space_of(own, TABLE, ONE, 1)
    assert space.candidate(point_chooser({"structure": "config"})).transform == chain(quantize())


def test_sizes_follow_the_config_and_the_queries(dlrm_experiment: Experiment) -> None:
    experiment = dataclasses.replace(dlrm_experiment, serving=Serving(buckets=(1, 16)))
    space = space_of(experiment, TABLE, ONE, 4)
    assert (space.smallest, space.largest) == (1, (16, 32, 64, 128))  # eight times the config's largest
    assert (space.devices, space.splits) == ((1, 2, 4), True)
    for model in (EASEConfig(), BPRConfig()):  # the one has no sharding rules, the other's split nothing
        assert not space_of(dataclasses.replace(experiment, model=model), {}, ONE, 4).splits
    wide = space_of(experiment, TABLE, QueryMix(sizes="dlrm_v2"), 1)
    assert (wide.smallest, wide.largest, wide.devices) == (64, (128,), (1,))  # the smallest query has 100 samples
    assert space_of(experiment, TABLE, QueryMix(samples=5000), 1).largest == (LARGEST_BUCKET,)


def test_a_point_makes_its_candidate(dlrm_space: Space) -> None:
    point = PLAIN | {
        "structure": "prune_shrink",
        "prune_share": 0.75,
        "tables": "int8",
        "precision": "int8_static",
        "int8_answers": True,
        "bucket_policy": "ladder",
        "largest_bucket": 64,
        "bucket_ratio": 8,
    }
    candidate = dlrm_space.candidate(point_chooser(point))
    names = "prune(0.75) + shrink + tables(int8) + int8 (static, after training, logits)"
    assert candidate.label == f"{names}, buckets 1 8 64"
    assert candidate.buckets == (1, 8, 64)
    # Numbers in a point that does not ask for them change nothing.
    same = dlrm_space.candidate(point_chooser(point | {"shrink_share": 0.5, "student_layers": "one less"}))
    assert same.key == candidate.key


def test_a_student_has_the_share_of_every_hidden_layer(dlrm_experiment: Experiment) -> None:
    model = dataclasses.replace(
        dlrm_experiment.model, embedding_dim=32, bottom_mlp=(64,), cross_ranks=(16, 40), top_mlp=(128, 96, 24)
    )
    space = space_of(dataclasses.replace(dlrm_experiment, model=model), TABLE, ONE, 1)
    point = PLAIN | {"structure": "student", "student_share": 0.75}
    whole = space.candidate(point_chooser(point)).transform
    assert whole == chain(distill(bottom_mlp=(16,), cross_ranks=(8, 8), top_mlp=(32, 24, 8)))
    thin = space.candidate(point_chooser(point | {"student_layers": "one less", "student_embedding": 0.5})).transform
    # A row of one layer keeps it.
    assert thin == chain(distill(bottom_mlp=(16,), cross_ranks=(8,), top_mlp=(24, 8), embedding_dim=16))


def test_the_first_points_are_cheap_ones_first_and_all_different(dlrm_space: Space) -> None:
    assert dlrm_space.candidate(point_chooser(dlrm_space.baseline())).key.startswith("[[], [1, 8, 64, 256]")
    candidates = [dlrm_space.candidate(point_chooser(point)) for point in dlrm_space.first_points(100.0)]
    assert len({candidate.key for candidate in candidates}) == len(candidates)
    trains = [candidate.transform.trains for candidate in candidates]
    assert trains == sorted(trains)
    assert candidates[0].buckets[-1] == 64  # the largest that 100 samples fill
    assert candidates[-1].buckets[-1] == 256


def test_several_devices_share_batches_and_layers(dlrm_experiment: Experiment) -> None:
    space = space_of(dlrm_experiment, TABLE, ONE, 4)
    one, shared = (PLAIN | {"bucket_policy": "config", "devices": n, "model_devices_of_4": 2} for n in (1, 4))
    assert space.candidate(point_chooser(one)).model_devices == 1  # a question that is not asked changes nothing
    candidate = space.candidate(point_chooser(shared))
    assert (candidate.devices, candidate.model_devices) == (4, 2)
    assert candidate.label.endswith(", 4 devices, 2 a layer")
    first = [space.candidate(point_chooser(point)) for point in space.first_points(100.0)]
    assert {(4, 1), (4, 4)} <= {(one.devices, one.model_devices) for one in first}
    assert len({one.key for one in first}) == len(first)


@settings(max_examples=60)
@given(data=st.data())
def test_any_answers_make_a_legal_chain_that_is_read_back(data: st.DataObject, dlrm_space: Space) -> None:
    asked: dict[str, tuple] = {}

    def choose(name: str, choices: tuple) -> object:
        assert name not in asked
        asked[name] = choices
        return data.draw(st.sampled_from(choices), label=name)

    candidate = dlrm_space.candidate(choose)
    assert from_json([member.to_json() for member in candidate.transform.members]) == candidate.transform
    assert list(candidate.buckets) == sorted(set(candidate.buckets))


@pytest.mark.parametrize("structure", ["shrink", "prune_shrink", "student", "low_rank"])
def test_the_model_can_have_what_the_space_names(
    structure: str, dlrm_experiment: Experiment, labelled: LabelledData
) -> None:
    model = dataclasses.replace(
        dlrm_experiment.model, embedding_dim=32, bottom_mlp=(64,), cross_ranks=(16, 40), top_mlp=(128, 96, 24)
    )
    experiment = dataclasses.replace(dlrm_experiment, model=model)
    drawn = init_params(model.build(labelled.schema), one_batch(labelled, 1), 0)
    space = space_of(experiment, drawn, ONE, 1)
    for share in (min(SHARES), max(SHARES)):
        point = PLAIN | {"structure": structure, "shrink_share": share, "prune_share": share, "student_share": share}
        transform = space.candidate(point_chooser(point)).transform
        start = None if transform.from_scratch else drawn
        with_it = dataclasses.replace(experiment, transforms=transform.members)
        assert set_up(with_it, labelled, start=start, taught_by=drawn).params


def test_prune_and_shrink_come_in_that_order(dlrm_space: Space) -> None:
    transform = dlrm_space.candidate(point_chooser(PLAIN | {"structure": "prune_shrink"})).transform
    assert transform == chain(prune(0.25), shrink(finetune_epochs=1))
