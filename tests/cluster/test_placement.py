"""What a run asks of a cluster follows from its config alone, and is what `raypref show` prints."""

import pytest

from raypref.cluster.placement import MARKET, NOT_SPOT, Bundle, placement, total
from raypref.cluster.reserved import DRIVER, group_bundles
from raypref.train.experiment import ClusterConfig


def test_a_bundle_a_role():
    cluster = ClusterConfig(
        samplers=2,
        max_samplers=8,
        reward_workers=3,
        sampler_gpus=1.0,
        reward_gpus=0.25,
        learner_ranks=4,
        learner_gpus=2.0,
        worker_cpus=0.5,
        worker_memory=1.5,
        sampler_labels={MARKET: "spot"},
    )
    learner, reward, sampler = placement(cluster)
    assert (learner.role, reward.role, sampler.role) == ("learner", "reward worker", "sampler")
    assert [(each.least, each.most) for each in (learner, reward, sampler)] == [(4, 4), (3, 3), (2, 8)]
    assert reward.resources() == {"CPU": 0.5, "GPU": 0.25, "memory": 1_500_000_000}
    assert sampler.options() == {
        "num_cpus": 0.5,
        "num_gpus": 1.0,
        "memory": 1_500_000_000,
        "label_selector": {MARKET: "spot"},
    }
    assert str(sampler) == "0.5 CPU, 1 GPU, 1.5 GB, on a node with ray.io/market-type = spot"
    assert total(placement(cluster), "GPU") == 4 * 2 + 3 * 0.25 + 2
    assert total(placement(cluster), "GPU", most=True) == 4 * 2 + 3 * 0.25 + 8


def test_every_rank_of_the_learner_has_a_bundle_in_the_group_of_a_trial():
    process, *workers = group_bundles(ClusterConfig(learner_ranks=3, learner_gpus=1.0, worker_cpus=0.5), num_threads=1)
    assert process == (DRIVER, NOT_SPOT)
    assert workers == [({"CPU": 0.5, "GPU": 1.0}, NOT_SPOT)] * 3 + [({"CPU": 0.5}, {})] * 2


def test_the_number_is_fixed_unless_more_are_allowed():
    for most in (0, 1, 3):
        sampler = placement(ClusterConfig(samplers=3, max_samplers=most))[-1]
        assert (sampler.least, sampler.most) == (3, 3)


def test_the_learner_is_never_on_a_spot_node():
    learner, reward, sampler = placement(ClusterConfig())
    assert "label_selector" not in reward.options() | sampler.options()
    labelled = placement(ClusterConfig(learner_ranks=2, learner_labels={"disk": "fast"}))[0]
    for bundle, labels in ((learner, {}), (labelled, {"disk": "fast"})):
        assert bundle.fits({"CPU": 1.0}, labels)
        assert bundle.fits({"CPU": 1.0}, labels | {MARKET: "on-demand"})
        assert not bundle.fits({"CPU": 1.0}, labels | {MARKET: "spot"})
    assert not labelled.fits({"CPU": 1.0}, {})


@pytest.mark.parametrize(
    ("selector", "label", "fits"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "a", False),
        ("!a", "b", True),
        ("!a", None, True),
        ("in(a, b)", "b", True),
        ("in(a,b)", "c", False),
        ("in(a,b)", None, False),
        ("!in(a,b)", "b", False),
        ("!in(a,b)", None, True),
    ],
)
def test_label_selectors_mean_what_ray_means(selector, label, fits):
    bundle = Bundle("sampler", 1, 1, 1.0, 0.0, labels={"zone": selector})
    assert bundle.fits({"CPU": 1.0}, {} if label is None else {"zone": label}) is fits


def test_a_node_must_be_large_enough():
    bundle = Bundle("sampler", 1, 1, 0.5, 0.25, memory=100)
    assert bundle.fits({"CPU": 0.5, "GPU": 1.0, "memory": 100.0}, {})
    for lacking in ("CPU", "GPU", "memory"):
        assert not bundle.fits({"CPU": 0.5, "GPU": 1.0, "memory": 100.0} | {lacking: 0.2}, {})


def test_without_reward_workers_no_place_is_asked_for_them():
    bundles = placement(ClusterConfig(reward_workers=0))
    assert [bundle.role for bundle in bundles] == ["learner", "sampler"]
    assert total(bundles, "CPU") == 1.0
    assert len(group_bundles(ClusterConfig(reward_workers=0), num_threads=1)) == 3  # the process itself, and these
