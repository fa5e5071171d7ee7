"""What questions draw is the same, bit for bit, on Ray and without."""

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image

from raypref.cluster.runtime import RayRuntime
from raypref.core.search import Search
from raypref.core.seeding import Key
from raypref.evaluate.fidelity import Fidelity
from raypref.evaluate.question import Contender, Scene
from raypref.studio import Policy, RuntimeStudio
from raypref.train.checkpoint import TrainState
from raypref.train.drawing import Chosen, Compared, Edited, Plain
from raypref.train.experiment import ClusterConfig
from raypref.train.runtime import LocalRuntime
from tests.recording import small_experiment

pytestmark = pytest.mark.ray


def trained_state(experiment):
    """The fresh policy, stirred."""
    runtime = LocalRuntime(experiment)
    parameters = runtime.learner.denoiser.parameters
    with torch.no_grad():
        parameters.flat.add_(0.1 * Key(5)("stir").normal(len(parameters.flat)))
    runtime.learner.history = {2: parameters.take(2)}
    return TrainState(2, 0, 0.0, 0.0, runtime.state())


def png(grey):
    content = io.BytesIO()
    Image.new("RGB", (20, 16), (grey, 90, 30)).save(content, "PNG")
    return content.getvalue()


def test_every_drawing_and_a_whole_question(ray_cluster, random_model, tmp_path):
    cluster = ClusterConfig(samplers=1, reward_workers=0, worker_cpus=0.1, timeout=240.0)
    experiment = replace(small_experiment(random_model), cluster=cluster, heldout_prompts=("a fox", "an ox", "a hen"))
    base, run = Contender("base"), Contender("run", "colorfulness", 2)
    policies = {base: Policy(experiment.model, None), run: Policy(experiment.model, trained_state(experiment))}
    prompts = experiment.heldout_prompts
    scenes = [
        Scene(prompts, Plain(), pictures=True),
        Scene(prompts, Chosen(Search(steps=(0, 2), candidates=3)), pictures=True),
        Scene(prompts, Compared(), pictures=True),
        Scene(prompts, Edited(0.5), tuple(png(grey) for grey in (10, 100, 200)), pictures=True),
    ]
    found = []
    for start in (LocalRuntime, RayRuntime):
        studio = RuntimeStudio(experiment, policies, tmp_path / start.__name__, start=start)
        try:
            found.append(([studio.albums(who, scenes) for who in (run, base)], Fidelity().answer(studio)))
        finally:
            studio.close()
    (local, answer), (remote, told) = found
    for ours, theirs in zip([*local[0], *local[1]], [*remote[0], *remote[1]], strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.scores["colorfulness"], theirs.scores["colorfulness"])
        assert (ours.kl is None) == (theirs.kl is None)
        assert ours.kl is None or torch.equal(ours.kl, theirs.kl)
    assert answer == told
    assert answer.cell("KL, mean over steps", "run", "base", column="value").low > 0
    assert not torch.equal(local[0][3].images, local[0][0].images)
