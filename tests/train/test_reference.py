"""The reference: how it follows the policy, how it borrows the policy's network, and which outputs it may be cached."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raypref.core.search import Search
from raypref.core.types import Transitions
from raypref.methods.base import Method
from raypref.methods.d3po import D3PO
from raypref.methods.rdpo import RDPO
from raypref.train.experiment import Experiment, OptimizerConfig, ReferenceConfig, RunConfig, SamplingConfig
from raypref.train.learner import Learner
from raypref.train.reference import Reference, StaleReference
from tests.toys import ToyDenoiser, chunk_of, sampled

SAMPLING = SamplingConfig(num_inference_steps=20, guidance_scale=5.0)
METHOD = RDPO(beta=2.0, psi_lambda=1.0)
D3PO_SHORT = D3PO(beta=2.0, search=Search("chain", 2, (0, 4, 8), "final"))


class Watching(ToyDenoiser):
    """Counts evaluations of latents that no gradient follows."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet = 0

    def predict(self, x_t, t, prompts, guidance_scale):
        self.quiet += 0 if torch.is_grad_enabled() else len(x_t)
        return super().predict(x_t, t, prompts, guidance_scale)


def learner_of(reference: ReferenceConfig, method: Method = METHOD, epochs: int = 1, batch: int = 5) -> Learner:
    return Learner(
        Watching(),
        Experiment(
            method=method,
            sampling=SAMPLING,
            run=RunConfig(prompts_per_iteration=2, chunk_size=1, lag=0),
            optimizer=OptimizerConfig(
                learning_rate=1e-2, batch_size=batch, micro_batch_size=5, num_inner_epochs=epochs
            ),
            reference=reference,
        ),
    )


def drawn(learner: Learner, version: int = 0):
    denoiser = ToyDenoiser()
    denoiser.parameters.install(learner.weights(version))
    return [sampled(denoiser, learner.method.search, chunk_of(("a", "q"), version), SAMPLING)]


def pairs_of(learner: Learner, version: int = 0) -> Transitions:
    return learner.method.supervise(drawn(learner, version)[0].rollout)


def stirred(seed: int) -> Tensor:
    denoiser = ToyDenoiser()
    denoiser.stir(seed)
    return denoiser.parameters.flat.clone()


@pytest.mark.parametrize("pull", [0.0, 0.25])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("update", ["hard", "ema"])
def test_the_reference_follows_as_the_formula_says(update: str, every: int, pull: float):
    denoiser = ToyDenoiser()
    denoiser.stir(0)
    pretrained = denoiser.parameters.flat.tolist()
    reference = Reference(denoiser, ReferenceConfig(update, every, 0.2, pull))
    by_hand, version = list(pretrained), 0
    for count in range(1, 8):
        denoiser.stir(count)
        reference.after_update()
        if count % every == 0:
            for place, policy in enumerate(denoiser.parameters.flat.tolist()):
                moved = policy if update == "hard" else by_hand[place] + 0.2 * (policy - by_hand[place])
                by_hand[place] = moved + pull * (pretrained[place] - moved)
            version += 1
        assert reference.state.updates == count
        assert reference.state.version == version
        if version:
            assert reference.state.flat.tolist() == pytest.approx(by_hand, abs=1e-6)
        else:
            assert reference.state.flat is None


def test_a_frozen_reference_stays_the_pretrained_model():
    learner = learner_of(ReferenceConfig())
    learner.update(0, drawn(learner))
    assert (learner.reference.state.version, learner.reference.state.updates) == (0, 2)
    assert learner.reference.state.flat is None


def test_a_copy_of_the_policy_is_no_alias_of_it():
    denoiser = ToyDenoiser()
    denoiser.stir(1)
    reference = Reference(denoiser, ReferenceConfig("hard", every=1))
    reference.after_update()
    denoiser.stir(2)
    assert torch.equal(reference.state.flat, stirred(1))


@pytest.mark.parametrize("method", [METHOD, D3PO_SHORT], ids=["rdpo", "d3po"])
def test_right_after_a_hard_update_every_log_ratio_is_exactly_zero(method: Method):
    learner = learner_of(ReferenceConfig("hard", every=1), method)
    learner.update(0, drawn(learner))
    assert learner.denoiser.parameters.flat.abs().sum() > 0
    batch = pairs_of(learner, 1)
    metrics = learner.loss(batch).metrics
    for name in ("rho_win", "rho_lose", "kl"):
        assert torch.equal(metrics[name], torch.zeros(len(batch))), name


@pytest.mark.parametrize("method", [METHOD, D3PO_SHORT], ids=["rdpo", "d3po"])
def test_a_moved_reference_gives_the_loss_and_gradients_of_a_separate_network(method: Method):
    learner = learner_of(ReferenceConfig("hard", every=1), method)
    denoiser = learner.denoiser
    denoiser.stir(1)
    learner.reference.after_update()
    denoiser.stir(2)
    before = denoiser.parameters.flat.clone()
    learner._remember(0)
    batch = pairs_of(learner)
    loss = learner.loss(batch)
    assert torch.equal(denoiser.parameters.flat, before)
    loss.per_example.sum().backward()
    assert torch.equal(denoiser.parameters.flat, before)

    policy, reference = ToyDenoiser(), ToyDenoiser()
    policy.stir(2)
    reference.stir(1)
    x_t, states = batch.x_t, len(batch.x_t)

    def gaussian(network: ToyDenoiser):
        t = learner.process.t[batch.steps].repeat(states)
        out = network.predict(x_t.flatten(0, 1), t, batch.prompts * states, 5.0).unflatten(0, (states, len(batch)))
        return learner.process.reverse(batch.steps, x_t, out)

    with torch.no_grad():
        frozen = gaussian(reference)
    wanted = method.loss(gaussian(policy), frozen, batch)
    wanted.per_example.sum().backward()
    assert float((wanted.per_example.detach() - torch.log(torch.tensor(2.0))).abs().max()) > 1e-3
    assert torch.equal(loss.per_example, wanted.per_example)
    for name, parameter in policy.parameters.parameters.items():
        # Chains that share x_T are evaluated there once: their gradients are summed in another order.
        torch.testing.assert_close(denoiser.parameters.parameters[name].grad, parameter.grad, rtol=1e-5, atol=1e-6)


def test_the_policys_weights_come_back_after_an_error():
    learner = learner_of(ReferenceConfig("hard", every=1))
    learner.denoiser.stir(1)
    learner.reference.after_update()
    learner.denoiser.stir(2)

    def fails() -> None:
        with learner.reference.active():
            assert torch.equal(learner.denoiser.parameters.flat, stirred(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert torch.equal(learner.denoiser.parameters.flat, stirred(2))


@pytest.mark.parametrize("update", ["frozen", "hard", "ema"])
@pytest.mark.parametrize("every", [1, 2])
def test_cached_outputs_train_as_fresh_ones_do(monkeypatch, update: str, every: int):
    """Five updates an epoch, three epochs; with every = 1 the reference moves at each, and the cache with it."""
    trained = []
    for cached in (True, False):
        learner = learner_of(ReferenceConfig(update, every, 0.3), epochs=3, batch=5)
        data = drawn(learner)
        learner.denoiser.quiet = 0
        if not cached:
            monkeypatch.setattr(Learner, "_with_reference", lambda self, batch: batch)
        report = learner.update(0, data)
        assert report.metrics["updates"] == 6
        quiet = learner.denoiser.quiet
        trained.append((learner.weights(1).flat, report.metrics, quiet))
    torch.testing.assert_close(trained[0][0], trained[1][0], rtol=1e-5, atol=1e-6)
    for name, value in trained[0][1].items():
        assert value == pytest.approx(trained[1][1][name], rel=1e-3, abs=1e-5), name
    if update == "frozen":
        assert (trained[0][2], trained[1][2]) == (10, 30)  # ten pairs, once instead of in every epoch


def test_one_pass_over_the_pairs_caches_nothing(monkeypatch):
    monkeypatch.setattr(Learner, "_with_reference", lambda *_: pytest.fail("a useless copy"))
    learner = learner_of(ReferenceConfig("ema", every=1))
    data = drawn(learner)
    learner.denoiser.quiet = 0
    learner.update(0, data)
    assert learner.denoiser.quiet == 10


def test_an_output_of_an_older_reference_is_refused():
    learner = learner_of(ReferenceConfig("ema", every=1))
    cached = learner._with_reference(pairs_of(learner))
    assert cached.reference_out is not None
    torch.testing.assert_close(learner.loss(cached).per_example, learner.loss(pairs_of(learner)).per_example)
    rows = torch.tensor([3, 1])
    assert torch.equal(cached.take(rows).reference_out, cached.reference_out[:, rows])
    learner.denoiser.stir(1)
    learner.reference.after_update()
    with pytest.raises(StaleReference, match="reference version 0 is stale: the reference is at version 1"):
        learner.loss(cached)
    assert not torch.equal(learner._with_reference(cached).reference_out, cached.reference_out)
    learner.loss(replace(cached, reference_out=None))


def test_the_values_of_another_policy_are_kept_where_the_network_is():
    denoiser = ToyDenoiser()
    denoiser.parameters.flat = denoiser.parameters.flat.to("meta")  # the device of a network elsewhere
    reference = Reference(denoiser, ReferenceConfig())
    reference.become(torch.zeros(denoiser.parameters.flat.numel()))
    assert reference.state.flat is not None
    assert reference.state.flat.device.type == "meta"
