# ruff: noqa: E501  # the table keeps one mutant a line
"""Mutation check: `python -m experiments.mutations` breaks one line at a time and sees whether a test notices.

Copies raypref and tests to a temporary folder, applies one mutant of the table below, and runs the tests of its file until
the first failure. A mutant that no test notices is a hole in the tests: the script then exits with 1. It takes minutes, so
it is no part of the test suite. `python -m experiments.mutations losses` runs the mutants of files with that word in them.
"""

import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import diffusers.pipelines.stable_diffusion  # noqa: F401  # imported once, before the forks
import peft  # noqa: F401
import pytest
import torch
import transformers  # noqa: F401

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    """One wrong line."""

    file: str
    old: str
    new: str


TESTS = {
    "core/losses.py": "tests/core/test_losses.py tests/core/test_ppo_clip.py",
    "core/drift.py": "tests/core/test_drift.py",
    "core/process.py": "tests/core",
    "core/supervise.py": "tests/core/test_supervise.py tests/core/test_advantages.py",
    "core/types.py": "tests/core/test_supervise.py tests/train/test_learner.py",
    "core/regression.py": "tests/methods tests/train/test_regression_learning.py",
    "core/regression_losses.py": "tests/methods",
    "methods/regression.py": "tests/methods",
    "methods/spin.py": "tests/methods",
    "methods/dro.py": "tests/methods",
    "methods/kto.py": "tests/methods",
    "methods/mapo.py": "tests/methods",
    "methods/dspo.py": "tests/methods",
    "core/weights.py": "tests/core/test_weights.py",
    "core/seeding.py": "tests/core/test_seeding.py",
    "core/schedule.py": "tests/core/test_schedule.py",
    "methods/stepwise_dpo.py": "tests/methods",
    "methods/rdpo.py": "tests/methods",
    "methods/d3po.py": "tests/methods",
    "rewards/colorfulness.py": "tests/rewards/test_colorfulness.py",
    "rewards/jpeg_compressibility.py": "tests/rewards/test_jpeg.py",
    "train/chunk.py": "tests/train/test_rollout.py tests/train/test_regression_learning.py",
    "train/lesson.py": "tests/train/test_learner.py tests/train/test_regression_learning.py tests/train/test_bad_rewards.py",
    "train/own_samples.py": "tests/train/test_regression_learning.py",
    "train/rollout.py": "tests/train/test_rollout.py tests/train/test_guidance.py tests/train/test_fused_sampling.py",
    "train/learner.py": "tests/train/test_learner.py tests/train/test_fused_sampling.py tests/train/test_ranks.py tests/train/test_regression_learning.py",
    "train/ranks.py": "tests/train/test_ranks.py",
    "cluster/learner_group.py": "tests/cluster/test_learner_group.py",
    "idle.py": "tests/test_idle.py",
    "cluster/wire.py": "tests/cluster/test_wire.py",
    "train/state.py": "tests/train/test_learner.py tests/train/test_guards.py tests/train/test_checkpoint.py",
    "train/reference.py": "tests/train/test_reference.py tests/train/test_learner.py",
    "train/guards.py": "tests/train/test_guards.py tests/train/test_bad_rewards.py",
    "train/asked.py": "tests/train/test_bad_rewards.py",
    "evaluate/heldout.py": "tests/evaluate/test_heldout.py tests/train/test_bad_rewards.py",
    "run.py": "tests/train/test_bad_rewards.py tests/test_checkpoint_folder.py tests/test_disk.py tests/test_workers_record.py",
    "train/loop.py": "tests/train/test_guards.py tests/train/test_lost_learner.py tests/test_disk.py",
    "train/canary.py": "tests/train/test_canary.py",
    "signals.py": "tests/test_ended_runs.py",
    "cluster/connect.py": "tests/test_ended_runs.py",
    "cluster/pool.py": "tests/cluster/test_pool.py tests/cluster/test_crew.py",
    "cluster/crew.py": "tests/cluster/test_pool.py tests/cluster/test_crew.py",
    "cluster/places.py": "tests/cluster/test_crew.py",
    "cluster/placement.py": "tests/cluster/test_placement.py",
    "cluster/register.py": "tests/cluster/test_register.py",
    "cluster/remote_scoring.py": "tests/cluster/test_remote_scoring.py",
    "cluster/runtime.py": "tests/cluster/test_lost_workers.py",
    "train/scorer.py": "tests/train/test_guidance.py tests/train/test_scorer.py tests/train/test_bad_rewards.py tests/train/test_tiny_decoder.py",
    "train/sampler.py": "tests/train/test_canary.py tests/train/test_bad_rewards.py tests/train/test_tiny_decoder.py",
    "train/checkpoint.py": "tests/train/test_checkpoint.py",
    "train/folder.py": "tests/train/test_checkpoint.py tests/test_checkpoint_folder.py",
    "run_directory.py": "tests/test_checkpoint_folder.py tests/test_disk.py tests/test_export.py tests/test_workers_record.py",
    "disk.py": "tests/test_disk.py tests/test_ended_runs.py",
    "lock.py": "tests/test_lock.py",
    "core/timestep_weight.py": "tests/core/test_timestep_weight.py",
    "methods/base.py": "tests/methods",
    "models/lora.py": "tests/models",
    "models/lora_layout.py": "tests/models/test_existing_lora.py tests/test_export.py",
    "models/existing_lora.py": "tests/models/test_existing_lora.py tests/test_config.py",
    "models/merge.py": "tests/test_export.py",
    **dict.fromkeys(("export.py", "provenance.py", "model_card.py"), "tests/test_export.py"),
    "push.py": "tests/test_push.py",
    **dict.fromkeys(("data/preferences.py", "data/set_writer.py"), "tests/data/test_preferences.py"),
    "data/selection.py": "tests/data/test_tables.py",
    "data/parquet_table.py": "tests/data/test_tables.py",
    "data/pictures.py": "tests/data/test_labelled_pictures.py",
    "models/encoder.py": "tests/models/test_encoder.py",
    **dict.fromkeys(("train/encoding.py", "prepare.py"), "tests/test_prepare.py"),
    "collect.py": "tests/test_collect.py",
    **{f"label/{name}.py": "tests/label/test_label.py" for name in ("answers", "desk", "server")},
    **{f"models/{name}.py": "tests/models" for name in ("checkpoint", "decoder", "guided", "sdxl", "sd3", "trained")},
}

MUTANTS = [
    # The loss: every sign, both arms, the clamp, the penalty, the weight.
    Mutant('core/losses.py', '* F.relu(excess)', '* excess'),
    Mutant('core/losses.py', '* F.relu(excess)', '* excess.clamp(min=0)'),
    Mutant('core/losses.py', '* F.relu(excess)', '* F.relu(-excess)'),
    Mutant('core/losses.py', 'penalty if self.sign == "intended" else -penalty', 'penalty if self.sign == "printed" else -penalty'),
    Mutant("core/losses.py", "else -penalty", "else penalty"),
    Mutant("core/losses.py", "kept[WIN] - kept[LOSE]", "kept[LOSE] - kept[WIN]"),
    Mutant("core/losses.py", "kept[WIN] - kept[LOSE]", "kept[WIN] + kept[LOSE]"),
    Mutant("core/losses.py", "kept[WIN] - kept[LOSE]", "rho[WIN] - rho[LOSE]"),
    Mutant('core/losses.py', '- psi.penalty(rho[LOSE]', '+ psi.penalty(rho[LOSE]'),
    Mutant('core/losses.py', 'psi.penalty(rho[LOSE]', 'psi.penalty(kept[LOSE]'),
    Mutant('core/losses.py', 'psi.penalty(rho[LOSE]', 'psi.penalty(rho[WIN]'),
    Mutant('core/losses.py', 'beta if self.inside_beta else 1.0', 'beta'),
    Mutant("core/losses.py", "math.log(1 - ratio_clip_eps)", "-math.log(1 + ratio_clip_eps)"),
    Mutant("core/losses.py", "math.log(1 + ratio_clip_eps)", "-math.log(1 - ratio_clip_eps)"),
    Mutant("core/losses.py", "-F.logsigmoid(margin * batch.weight)", "-F.logsigmoid(-margin * batch.weight)"),
    Mutant("core/losses.py", "-F.logsigmoid(margin * batch.weight)", "F.logsigmoid(margin * batch.weight)"),
    Mutant("core/losses.py", "-F.logsigmoid(margin * batch.weight)", "-F.logsigmoid(margin)"),
    Mutant("core/losses.py", "policy.log_ratio(reference, batch.x_s, logp_reduce)", "reference.log_ratio(policy, batch.x_s, logp_reduce)"),
    Mutant("core/losses.py", "policy.log_ratio(reference, batch.x_s, logp_reduce)", "policy.log_ratio(reference, batch.x_s)"),
    Mutant("core/losses.py", "(kept != rho).all(0)", "(kept == rho).all(0)"),
    # Densities and tables.
    Mutant("core/process.py", 'total.mean(-1) if reduce == "mean"', 'total.mean(-1) if reduce == "sum"'),
    Mutant("core/process.py", "0.5 * (self.mean + other.mean)", "0.5 * (self.mean - other.mean)"),
    Mutant("core/process.py", "0.5 * (self.mean + other.mean)", "other.mean"),
    Mutant("core/process.py", "(self.mean - other.mean) / std**2", "(self.mean - other.mean) / std"),
    Mutant("core/process.py", "(self.mean - other.mean) / std**2", "(other.mean - self.mean) / std**2"),
    Mutant("core/process.py", "(2 * self._density_std() ** 2)", "(self._density_std() ** 2)"),
    Mutant("core/process.py", "- torch.log(std)", "+ torch.log(std)"),
    Mutant("core/process.py", "self.mean + self._std() * noise", "self.mean - self._std() * noise"),
    Mutant("core/process.py", "self.std <= MIN_STD", "self.std <= -MIN_STD"),
    Mutant('core/process.py', '(noise_s**2 - sigma**2)', '(noise_s**2)'),
    Mutant('core/process.py', 'sigma = eta * noise_s', 'sigma = eta**2 * noise_s'),
    Mutant("core/process.py", "return (signal, -noise), (noise, signal)", "return (signal, -noise), (-noise, signal)"),
    Mutant("core/process.py", "return (signal, -noise), (noise, signal)", "return (signal, noise), (noise, signal)"),
    Mutant("core/process.py", "torch.ones_like(now[:1])", "now[-1:]"),
    Mutant("core/schedule.py", "times < 0", "times < 1"),
    # Pairs.
    Mutant("core/supervise.py", "torch.stack([best[prompt, row], worst[prompt, row]])", "torch.stack([worst[prompt, row], best[prompt, row]])"),
    Mutant('core/supervise.py', 'return child - parent', 'return parent - child'),
    Mutant("core/supervise.py", "(high > low)", "(high >= low)"),
    Mutant("core/supervise.py", "known.argmax(1), known.argmin(1)", "known.argmin(1), known.argmax(1)"),
    Mutant("core/supervise.py", "place.nan_to_num(nan=0.0)", "place.nan_to_num(nan=-9.0)"),
    Mutant('core/supervise.py', 'parents = arms if', 'parents = arms.flip(0) if'),
    Mutant('core/supervise.py', 'parents = arms if', 'parents = torch.zeros_like(arms) if'),
    Mutant('core/supervise.py', 'steps=rollout.steps[row],\n        x_t=rollout.x_t[prompt, parents, row],', 'steps=row,\n        x_t=rollout.x_t[prompt, parents, row],'),
    Mutant('core/supervise.py', 'x_t=rollout.x_t[prompt, parents, row],', 'x_t=rollout.x_t[prompt, parents, row - 1],'),
    Mutant("core/supervise.py", "rollout.x_s[prompt, arms, row]", "rollout.x_s[prompt, arms, 0 * row]"),
    Mutant('core/supervise.py', '[high[prompt, row, 0], low[prompt, row, 0]]', '[low[prompt, row, 0], high[prompt, row, 0]]'),
    Mutant("core/types.py", "self.x_s[:, rows],", "self.x_s[:, : len(rows)],"),
    # Weights and seeds.
    Mutant("core/weights.py", "if missing or unknown:", "if missing:"),
    Mutant("core/weights.py", "manifest.names != self.names() or manifest", "manifest"),
    Mutant("core/weights.py", " or manifest.shapes != self.shapes()", ""),
    Mutant("core/weights.py", "if live != manifest.checksum:", "if False:"),
    Mutant("core/weights.py", "dict(sorted(parameters.items()))", "dict(parameters.items())"),
    Mutant("core/weights.py", "flat = self.flat.detach().cpu().clone()", "flat = self.flat.detach().cpu()"),
    Mutant("core/weights.py", ".view(parameter.shape)", ".view(parameter.shape).clone()"),
    Mutant("core/seeding.py", "repr((self.seed, self.address))", "repr((0, self.address))"),
    Mutant("core/seeding.py", "repr((self.seed, self.address))", "str((self.seed, *map(str, self.address)))"),
    Mutant("core/seeding.py", "self.address + parts", "parts"),
    Mutant("core/seeding.py", "torch.randn(shape, generator=self.generator(), ", "torch.randn(shape, "),
    Mutant("core/seeding.py", "torch.Generator().manual_seed(self.digest())", "torch.manual_seed(self.digest())"),
    # Methods and rewards.
    Mutant('methods/stepwise_dpo.py', 'Psi(self.psi_lambda, self.psi_sign,', 'Psi(self.psi_lambda, "intended",'),
    Mutant("methods/stepwise_dpo.py", "ratio_clip_eps=self.ratio_clip_eps,", ""),
    Mutant('methods/stepwise_dpo.py', 'Psi(self.psi_lambda,', 'Psi(0.0,'),
    Mutant("methods/rdpo.py", "psi_lambda: float = 100.0", "psi_lambda: float = 1.0"),
    Mutant("methods/d3po.py", 'step_reward="final"', 'step_reward="q"'),
    Mutant("rewards/colorfulness.py", "0.5 * (red + green) - blue", "0.5 * (red - green) - blue"),
    Mutant("rewards/colorfulness.py", "correction=0) + yb", "correction=1) + yb"),
    Mutant("rewards/jpeg_compressibility.py", "quality=95", "quality=90"),
    # The search.
    Mutant("train/rollout.py", "key(what, step, candidate)", "key(what, step)"),
    Mutant("train/rollout.py", "key(what, step, candidate)", "key(what, candidate)"),
    Mutant("train/rollout.py", "key(what, step, candidate).normal(*shape) for key in self.chunk.keys", "self.chunk.keys[0](what, step, candidate).normal(*shape) for key in self.chunk.keys"),
    Mutant('train/rollout.py', 'nan=-torch.inf).argmax(1)', 'nan=torch.inf).argmin(1)'),
    Mutant('train/rollout.py', 'nan=-torch.inf).argmax(1)', 'nan=torch.inf).argmax(1)'),
    Mutant("train/rollout.py", 'search.follow == "random"', 'search.follow == "best"'),
    Mutant('train/rollout.py', 'out = walk.predict(step + 1, x)\n', 'out = walk.predict(step, x)\n'),
    Mutant('train/rollout.py', 'clean = {end: walk.x_0(end, x, out)}', 'clean = {end: walk.x_0(end - 1, x, out)}'),
    Mutant('train/rollout.py', 'walk.x_0(start.step, start.x_t, start.out)', 'walk.x_0(start.step + 1, start.x_t, start.out)'),
    Mutant('train/rollout.py', 'if PARENT in needs and start.value is None:', 'if PARENT in needs:'),
    Mutant('train/rollout.py', 'walk.predict(state.step + 1, x_t), None)', 'walk.predict(state.step + 1, x_t), state.value)'),
    Mutant('train/rollout.py', 'out[chosen, columns][None]', 'out[0, columns][None]'),
    Mutant('train/rollout.py', 'x[chosen, columns][None]', 'x[0, columns][None]'),
    Mutant('train/rollout.py', 'visited.append((parent, x, gaussian.mean))', 'visited.append((x[:1], x, gaussian.mean))'),
    Mutant("train/rollout.py", "x_t[:1] if shared else x_t", "x_t"),
    Mutant("train/rollout.py", "x_t[:1] if shared else x_t", "x_t[:1]"),
    Mutant('train/rollout.py', 'x_t=states[step],', 'x_t=states[step + 1],'),
    Mutant('train/rollout.py', 'x_s=states[step + 1],', 'x_s=states[-1],'),
    Mutant('train/rollout.py', 'answers[step + offset] if offset in needs', 'answers[step] if offset in needs'),
    Mutant('train/rollout.py', 'recording.rollout(answers[total])', 'recording.rollout(answers[min(answers)])'),
    Mutant("train/rollout.py", "self.chunk.prompts * group, ", "tuple(p for p in self.chunk.prompts for _ in range(group)), "),
    Mutant("train/chunk.py", '("prompts", epoch)', '("prompts", 0)'),
    Mutant("train/chunk.py", '("rollout", iteration, item)', '("rollout", item)'),
    # Labelled pictures.
    Mutant("core/regression.py", "error(reference, batch) - error(policy, batch)", "error(policy, batch) - error(reference, batch)"),
    Mutant("core/regression.py", "keys.append(key(item, seen[item]))", "keys.append(key(item))"),
    Mutant("core/regression.py", 'each("noise")', 'key("noise")'),
    Mutant("core/regression.py", "self.t[rows],", "self.t[rows.flip(0)],"),
    Mutant("core/regression.py", "won = batch.label == 1", "won = batch.label == 0"),
    Mutant("core/schedule.py", "signal * x_0 + spread * noise, target", "spread * x_0 + signal * noise, target"),
    Mutant("core/schedule.py", "signal * noise - spread * x_0", "signal * noise + spread * x_0"),
    Mutant("core/schedule.py", "sigma * noise, noise - x_0", "sigma * noise, x_0 - noise"),
    Mutant("core/regression_losses.py", "margin_scale: float = 0.5", "margin_scale: float = 1.0"),
    Mutant("core/regression_losses.py", "rho[WIN] - rho[LOSE]", "rho[LOSE] - rho[WIN]"),
    Mutant("core/regression_losses.py", "- pull * (policy", "+ pull * (policy"),
    Mutant("core/regression_losses.py", "moved >= switch", "moved < switch"),
    Mutant("methods/regression.py", "torch.lerp(other.per_example, per_example, batch.label)", "torch.lerp(per_example, other.per_example, batch.label)"),
    Mutant("methods/spin.py", "[preferences.x_0, own.latents[None]]", "[own.latents[None], preferences.x_0]"),
    Mutant("methods/dro.py", "[experts.target, own.out[None]]", "[experts.target, experts.target]"),
    Mutant("methods/dro.py", "found[WIN] - found[LOSE]", "found[LOSE] - found[WIN]"),
    Mutant("methods/kto.py", ".detach().clamp(min=0)", ".clamp(min=0)"),
    Mutant("methods/kto.py", ".detach().clamp(min=0)", ".detach()"),
    Mutant("methods/kto.py", "found - usual, usual - found", "found - usual, -usual - found"),
    Mutant("methods/mapo.py", "near = x < 0.05", "near = x < 0"),
    Mutant("methods/mapo.py", "score[WIN] - score[LOSE]", "score[LOSE] - score[WIN]"),
    Mutant("methods/dspo.py", "torch.sigmoid(-(", "torch.sigmoid(("),
    Mutant("train/own_samples.py", "torch.stack(outs)[steps, rows]", "torch.stack(outs)[steps - 1, rows]"),
    Mutant("train/own_samples.py", "guidance_scale=1.0", "guidance_scale=walk.guidance_scale"),
    Mutant("train/learner.py", "if self.method.coupled and len(parts) > 1:", "if False:"),
    Mutant("train/learner.py", "self.reference.become(self.history[self.experiment.policy_version(iteration)].flat)", "self.reference.become(self.history[max(self.history)].flat)"),
    Mutant("train/lesson.py", '("regression", iteration)', '("regression")'),
    Mutant("train/lesson.py", 'process.t if method.own == "on_the_way" else', ""),
    Mutant("train/lesson.py", "guidance_scale = 1.0", "guidance_scale = 2.0"),
    # The learner.
    Mutant('train/learner.py', 'with torch.no_grad(), self.reference.active():', 'with torch.no_grad():'),
    Mutant("train/learner.py", "return batch.answer(self.process, self._out(batch))", "return batch.answer(self.process, self._out(batch).detach().requires_grad_())"),
    Mutant("train/learner.py", "loss.per_example.sum() / len(batch)", "loss.per_example.mean()"),
    Mutant("train/learner.py", "loss.per_example.sum() / len(batch)", "loss.per_example.sum()"),
    Mutant("train/learner.py", "loss.per_example.sum() / len(batch)", "-loss.per_example.sum() / len(batch)"),
    Mutant("train/learner.py", "self.optimizer.zero_grad(set_to_none=True)", "pass"),
    Mutant("train/learner.py", "batch.times(self.process)[rows[own]]", "batch.times(self.process)[rows[own] - 1]"),
    Mutant("core/types.py", "process.reverse(self.steps, self.x_t, out)", "process.reverse(self.steps - 1, self.x_t, out)"),
    Mutant("train/learner.py", "own[1:] = (batch.x_t[1:] != batch.x_t[:1]).flatten(2).any(2)", "pass"),
    Mutant("train/learner.py", "- 1, rows)", ", rows)"),
    Mutant("train/learner.py", "mean = batch.mean.detach()", "mean = batch.mean"),
    Mutant("train/learner.py", "manifest.checksum == self._fresh:", "manifest.checksum == None:"),
    Mutant("train/rollout.py", "self.noise(what, step, group)).detach()", "self.noise(what, step, group))"),
    Mutant("train/rollout.py", "torch.set_grad_enabled(step in self.graph_steps)", "torch.set_grad_enabled(True)"),
    Mutant("train/rollout.py", "torch.set_grad_enabled(step in self.graph_steps)", "torch.no_grad()"),
    Mutant("idle.py", "1 - sum(", "sum("),
    Mutant("idle.py", "if not every or row", "if row"),
    Mutant("cluster/wire.py", "return _unpack(value, np.copy)", "return borrow(value)"),
    Mutant("train/learner.py", "(part.rollout.policy_version, part.rollout.policy_checksum)", "(part.rollout.policy_version, wanted.checksum)"),
    Mutant("train/learner.py", "(part.rollout.policy_version, part.rollout.policy_checksum)", "(wanted.version, part.rollout.policy_checksum)"),
    Mutant("train/learner.py", "self._remember(iteration + 1)", "self._remember(iteration)"),
    Mutant("train/learner.py", "known < version - self.experiment.run.lag", "known < version"),
    Mutant("train/learner.py", 'Key(self.experiment.run.seed)("train", iteration)', 'Key(int(torch.initial_seed()))("train", iteration)'),
    Mutant("train/lesson.py", "process.check_density(method.recorded_steps())", "pass"),
    Mutant("train/lesson.py", "if len(pairs) == 0:", "if False:"),
    Mutant("train/state.py", "learner.optimizer.state[parameter] = on_device", "pass"),
    Mutant("train/state.py", "value.detach().cpu().clone()", "value.detach().cpu()"),
    # The network.
    Mutant("models/guided.py", "empty + guidance_scale * (full - empty)", "full + guidance_scale * (full - empty)"),
    Mutant("models/guided.py", "(None,) * len(prompts) + prompts", "prompts + (None,) * len(prompts)"),
    Mutant("models/decoder.py", "latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor", "latents.to(self.device, self.vae.dtype)"),
    Mutant("models/decoder.py", "scaled = scaled + self.vae.config.shift_factor", "pass"),
    Mutant("models/sdxl.py", "if self.pipe.config.force_zeros_for_empty_prompt:", "if False:"),
    Mutant("models/sdxl.py", "[side, side, 0, 0, side, side]", "[0, 0, 0, 0, side, side]"),
    Mutant("models/sd3.py", "scheduler.config.num_train_timesteps, scheduler.config.shift", "scheduler.config.num_train_timesteps, 1.0"),
    Mutant("models/trained.py", "self.parameters.flat.clone()", "self.parameters.flat"),
    Mutant("models/checkpoint.py", "if words < 0.99 * rows:", "if words < 0:"),
    Mutant("models/lora.py", "stacked(self.fused.get(name, {}), trained)", "trained"),
    Mutant("models/lora.py", "**self.fused, name", "name"),
    Mutant("models/lora_layout.py", " * layer.scaling[adapter]", ""),
    Mutant("models/lora_layout.py", "_padded(up, 1, rank))", "up)"),
    Mutant("models/lora_layout.py", 'any("lora_A" in key for key in converted)', "False"),
    Mutant("models/lora_layout.py", "float(alpha) / len", "1 / len"),
    Mutant("models/lora_layout.py", "dict(sorted((header.get", "dict(((header.get"),
    Mutant("models/existing_lora.py", "if 2 * len(layers) != tensors:", "if False:"),
    Mutant("models/existing_lora.py", "safe_fusing=True", "safe_fusing=False"),
    Mutant("models/existing_lora.py", "if other or not keys:", "if False:"),
    Mutant("models/existing_lora.py", "    if foreign:", "    if False:"),
    Mutant("models/merge.py", "fuse(pipe, trained, family.kohya_prefixes)", "pass"),
    Mutant("provenance.py", 'else name\n', 'else name.upper()\n'),
    Mutant("provenance.py", " or os.path.exists(name)", ""),
    Mutant("provenance.py", "if key not in OF_THE_PLACE", ""),
    Mutant("model_card.py", "and public(model.path) == model.path", ""),
    Mutant("model_card.py", "for place in (0, -1)", "for place in (-1, 0)"),
    Mutant("push.py", "private=private or None", "private=None"),
    Mutant("push.py", "            revision=revision,\n", ""),
    Mutant("export.py", "if output.exists():", "if False:"),
    Mutant("run_directory.py", 'hashlib.file_digest(content, "sha256").hexdigest()', '""'),
    Mutant("models/lora.py", "self.network.enable_adapters()", "pass"),
    Mutant("models/lora.py", "/ config.lora_rank", ""),
    # Credit, Pareto, threshold, policy gradient, KL, timestep weights, reference, guidance, guards.
    Mutant("core/supervise.py", "return parent - child", "return child - parent"),
    Mutant("core/supervise.py", "return following - child", "return child - following"),
    Mutant("core/supervise.py", "(first >= second).all(-1) & (first > second).any(-1)", "(first > second).any(-1)"),
    Mutant("core/supervise.py", "torch.tanh((high - low) / 2) > threshold", "torch.tanh(high - low) > threshold"),
    Mutant("core/supervise.py", ".clamp(-clip, clip)", ""),
    Mutant("core/supervise.py", "(better.sum(2) - better.sum(1))", "better.sum(2)"),
    Mutant("core/losses.py", "rho_lose - kl_lose.detach()", "rho_lose - kl_lose"),
    Mutant("core/losses.py", 'if self.center == "kl" else rho_lose', 'if self.center == "none" else rho_lose'),
    Mutant("core/losses.py", "torch.maximum(-advantage * ratio", "torch.minimum(-advantage * ratio"),
    Mutant("core/losses.py", "Gaussian(batch.mean[0], policy.std)", "Gaussian(batch.x_t[0], policy.std)"),
    Mutant("core/losses.py", "batch.credit[0] * batch.weight", "batch.credit[0]"),
    Mutant("core/losses.py", ".expand_as(rho)[LOSE]", ".expand_as(rho)[WIN]"),
    Mutant("core/drift.py", "excess = rho - kl", "excess = rho + kl"),
    Mutant("core/drift.py", "0.5 + 0.5 * (rho[WIN]", "0.5 - 0.5 * (rho[WIN]"),
    Mutant("core/drift.py", '"rho_lose_excess": excess[LOSE]', '"rho_lose_excess": excess[WIN]'),
    Mutant("core/drift.py", "batch.weight > 0", "batch.weight < 0"),
    Mutant("core/drift.py", "policy.log_ratio(reference,", "reference.log_ratio(policy,"),
    Mutant("core/timestep_weight.py", "raw(t) / raw(trained).mean()", "raw(t)"),
    Mutant("methods/base.py", "per_example + self.kl_coef", "per_example - self.kl_coef"),
    Mutant("core/process.py", "(ones, -now), (ones, 1 - now)", "(ones, -now), (ones, -now)"),
    Mutant("train/rollout.py", "guidance.target - scores.value[:, 0]", "scores.value[:, 0] - guidance.target"),
    Mutant("train/rollout.py", "value = value.index_put((chosen, columns), state.value[0])", "pass"),
    Mutant("train/loop.py", "if judged is not None:  # what is kept", "if False:  # what is kept"),
    Mutant("train/scorer.py", "torch.cat([part.value for part in parts])", "torch.cat([part.value for part in parts[::-1]])"),
    Mutant("train/rollout.py", "x_t = state.x_t + guidance.scale * direction", "x_t = state.x_t - guidance.scale * direction"),
    Mutant("train/rollout.py", "state.x_t[0])\n", "state.x_t[0] * 0)\n"),
    Mutant("train/reference.py", "updates % config.every", "(updates + 1) % config.every"),
    Mutant("train/reference.py", "before.lerp(policy, config.rate)", "policy.lerp(before, config.rate)"),
    Mutant("train/reference.py", "moved.lerp(self._pretrained, config.pretrained_pull)", "moved"),
    Mutant("train/reference.py", "if version != self.state.version:", "if False:"),
    Mutant("train/guards.py", "now < config.diversity_share * base_diversity", "now > config.diversity_share * base_diversity"),
    # Bad rewards.
    Mutant("train/asked.py", "masked_fill(bad, torch.nan)", "masked_fill(bad, 0.0)"),
    Mutant("train/asked.py", "bad = ~scores.isfinite()", "bad = scores.isnan()"),
    Mutant("train/asked.py", "torch.full((len(images),), torch.nan)", "torch.zeros(len(images))"),
    Mutant("train/asked.py", "thread.join(self.patience)", "thread.join()"),
    Mutant("train/asked.py", "if self._hanging is not None and self._hanging.is_alive():", "if False:"),
    Mutant("train/asked.py", "if self._hanging is not None and self._hanging.is_alive():", "if self._hanging is not None:"),
    Mutant("train/asked.py", "torch.set_grad_enabled(gradients)", "torch.no_grad()"),
    Mutant("train/asked.py", "torch.set_grad_enabled(gradients)", "torch.enable_grad()"),
    Mutant("train/asked.py", "isinstance(problem, (BadAnswer, StoppedRun))", "isinstance(problem, BadAnswer)"),
    Mutant("train/asked.py", " or not isinstance(problem, Exception)", ""),
    Mutant("train/asked.py", "if found.shape != (count,):", "if False:"),
    Mutant("train/asked.py", " or not found.is_floating_point()", ""),
    Mutant("train/asked.py", "[:REASON_LENGTH]", ""),
    Mutant("train/asked.py", "        if scores.isnan().all():  # it has been said why\n            return torch.zeros_like(x_0), {}\n", ""),
    Mutant("train/scorer.py", "failures=together(*(part.failures for part in parts))", "failures={}"),
    Mutant("train/sampler.py", "spent.failures = together(spent.failures, scores.failures)", "spent.failures = scores.failures"),
    Mutant("train/sampler.py", "failures=together(judgement.failures, *(found.failures for found in scores))", "failures=judgement.failures"),
    Mutant("train/sampler.py", "replace(request, full=True)", "request"),
    Mutant("train/sampler.py", "{step: found[0, :, 0] for", "{step: found[-1, :, 0] for"),
    Mutant("train/scorer.py", "finished = (t == 0) | full", "finished = t == 0"),
    Mutant("train/rollout.py", "walk.step(step, x_t[:1], out[:1], candidates", "walk.step(step, x_t[-1:], out[-1:], candidates"),
    Mutant("evaluate/heldout.py", "for part in judgements], 1)", "for part in judgements[:1]], 1)"),
    Mutant("train/guards.py", "missing > config.missing_share", "missing > 1"),
    Mutant("train/guards.py", "missing > config.missing_share", "missing >= config.missing_share"),
    Mutant("train/guards.py", "tied > config.tied_share", "tied > 1"),
    Mutant("train/guards.py", 'dropped.get("tie", 0) / total', "(total - kept) / total"),
    Mutant("train/lesson.py", "check_rewards(self.experiment.guard, iteration, pairs.dropped, len(pairs), failures)", "pass"),
    Mutant("core/supervise.py", "int((enough & ~decided & ~tied).sum())", "int((enough & ~decided).sum())"),
    Mutant("core/supervise.py", "credit.masked_fill(~scored[..., None], torch.inf).amin(1)", "credit.nan_to_num().amin(1)"),
    Mutant("evaluate/heldout.py", ".nanmean(1)", ".mean(1)"),
    Mutant("evaluate/heldout.py", "attributes = dict.fromkeys(name for part in judgements for name in part.accuracy)", "attributes = judgements[0].accuracy"),
    Mutant("run.py", '"failures": commonest(report.failures),', ""),
    Mutant("run.py", "self._failed(done, report.failures)", "pass"),
    Mutant("train/state.py", "replace(state, history=kept | {version: renamed})", "replace(state, history={version: good})"),
    # Lost workers, and the proof of weights.
    Mutant("train/canary.py", "if not difference <= tolerance:", "if False:"),
    Mutant("core/weights.py", "self.version, self.checksum = UNPROVED  #", "pass  #"),
    Mutant("train/checkpoint.py", "if SUMS in target.names():\n        return target", "pass"),
    Mutant("train/loop.py", " or state.iteration == experiment.run.iterations", ""),
    Mutant("cluster/remote_scoring.py", "first = self._whereabouts.get(worker) == place", "first = place is not None"),
    Mutant("cluster/connect.py", "if ours and ended.code == signal.SIGTERM:", "if False:"),
    Mutant("cluster/pool.py", "if late:  #", "if False:  #"),
    Mutant("train/sampler.py", "self._canary.prove(weights, self.sync_tolerance)", "pass"),
    Mutant("train/loop.py", "runtime.restore(None if state is None else state.learner)", "pass"),
    Mutant("train/loop.py", "losses.clear()", "pass"),
    Mutant("train/loop.py", "if len(losses) == MAX_LOSSES:", "if False:"),
    Mutant("train/loop.py", "if state is not None and kept < state.iteration and not failed:", "if False:"),
    Mutant("train/loop.py", " and not failed", ""),
    Mutant("train/loop.py", "observer.trained(runtime.export)", "pass"),
    Mutant("train/loop.py", "raise ended from problem", "raise"),
    Mutant("train/loop.py", "observer.learner_lost(iteration, str(lost))", "pass"),
    Mutant("train/loop.py", "if math.isnan(state.base_diversity):", "if state.iteration == 0:"),
    Mutant("signals.py", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "pass"),
    Mutant("signals.py", "raise KeyboardInterrupt  #", "raise Terminated(number)  #"),
    Mutant("signals.py", "    if _ending.sections:", "    if False:"),
    Mutant("signals.py", "and not _ending.sections", ""),
    Mutant("signals.py", " and not failing", ""),
    Mutant("disk.py", "with undisturbed(), self.writing():\n            self.observer.alarmed", "with self.writing():\n            self.observer.alarmed"),
    Mutant("cluster/pool.py", "if job.wanted:", "if False:"),
    Mutant("cluster/pool.py", "if job.wanted:", "if True:"),
    Mutant("cluster/pool.py", "job.losses.append(", "str("),
    Mutant("cluster/pool.py", "self.slots if self._queue[0].losses else 1", "1"),
    Mutant("cluster/pool.py", "        self._replace_late()\n", ""),
    Mutant("cluster/crew.py", "if seat.at_work]", "]"),
    Mutant("cluster/crew.py", "self.ask(1, seat.failed_starts + 1)", "self.ask(1)"),
    Mutant("cluster/crew.py", "seat.at_work, seat.failed_starts, seat.idle_since = True, 0, ", "seat.at_work, seat.idle_since = True, "),
    # Samplers that come and go, and their places.
    Mutant("cluster/crew.py", "if weights is not None:", "if False:"),
    Mutant("cluster/crew.py", "if not begun or (wanted and not seat.at_work):", "if wanted and not seat.at_work:"),
    Mutant("cluster/crew.py", "if actor_id(seat.actor) in self.places.missing:", "if False:"),
    Mutant("cluster/crew.py", "seat.leaving, seat.at_work = True, False", "seat.leaving = True"),
    Mutant("cluster/crew.py", "if seat.leaving and not seat.load:", "if seat.leaving:"),
    Mutant("cluster/crew.py", "if not seat.load and idle", "if idle"),
    Mutant("cluster/crew.py", "[self.least :]", "[1:]"),
    Mutant("cluster/crew.py", "self.ask(max(0, min(room, wanted - len(self.starting))))", "pass"),
    Mutant("cluster/crew.py", "self._give_way(needed[0])", "pass"),
    Mutant("cluster/pool.py", "running.seat not in self.crew.seats", "False"),
    Mutant("cluster/pool.py", "self._waited = max(", "self._waited = min("),
    Mutant("cluster/pool.py", "if time.monotonic() - self._staffed_at >= self.timeout:", "if False:"),
    Mutant("cluster/places.py", 'if not row["Address"]["Port"]', 'if not row["Address"]["NodeID"]'),
    Mutant("cluster/places.py", "if bundle.fits(node", "if node"),
    Mutant("cluster/places.py", "self._waiting.get(actor, now)", "now"),
    Mutant("cluster/placement.py", "NOT_SPOT | cluster.learner_labels", "cluster.learner_labels"),
    Mutant("cluster/placement.py", "max(cluster.samplers, cluster.max_samplers)", "cluster.max_samplers"),
    Mutant("cluster/placement.py", '!= selector.startswith("!")', ""),
    Mutant("cluster/placement.py", "each.most if most else each.least", "each.least"),
    Mutant("cluster/register.py", "if change.kind != \"lost\" or loss not in self._heard:", "if True:"),
    Mutant("cluster/register.py", "self._present * (now - self._since)", "now - self._since"),
    Mutant("run.py", "recorder.close(runtime.attendance())", "recorder.close(Attendance())"),
    Mutant("run_directory.py", "self.keep_rows(self.workers, self.rows(self.workers))", "pass"),
    Mutant("idle.py", "seconds * samplers for", "seconds for"),
    Mutant("cluster/remote_scoring.py", "max_task_retries=-1", "max_task_retries=0"),
    Mutant("cluster/remote_scoring.py", "len(losses) < MAX_LOSSES", "True"),
    Mutant("cluster/remote_scoring.py", "return told", "return []"),
    Mutant("cluster/learner_group.py", "self.lost = True\n            raise", "raise"),
    Mutant("cluster/learner_group.py", "self.lost = True\n            who", "who"),
    # Ranks of a learner.
    Mutant("cluster/learner_group.py", "return WAITING if", "return AT_WORK if"),
    Mutant("cluster/learner_group.py", "[] if method in OF_THE_FIRST else self.actors[1:]", "self.actors[1:]"),
    Mutant("train/ranks.py", "if not begun:", "if False:"),
    Mutant("train/ranks.py", "self.gather(part)[:number]", "self.gather(part)"),
    Mutant("train/ranks.py", "if number else None", ""),
    Mutant("train/ranks.py", "own.split(SLICE)", "own.split(len(own))"),
    Mutant("train/ranks.py", "if len(set(said)) > 1:", "if False:"),
    Mutant("train/ranks.py", "canary.prove(first,", "canary.prove(newest,"),
    Mutant("train/ranks.py", "        each.grad = None\n", "        pass\n"),
    Mutant("train/learner.py", 'self.exchange.agree(f"version {version} of the weights", taken.manifest.checksum)', "pass"),
    # What a run leaves behind: checkpoints, rows, the lock, a full disk.
    Mutant("train/checkpoint.py", "if SUMS in path.names()", ""),
    Mutant("train/checkpoint.py", "checkpoints(folder)[-keep:]", "checkpoints(folder)[:keep]"),
    Mutant("train/checkpoint.py", "reversed(checkpoints(folder))", "checkpoints(folder)"),
    Mutant("train/checkpoint.py", 'if f"{_digest(content)}  {name}" not in sums:', "if False:"),
    Mutant("train/checkpoint.py", "iteration_of(path) > iteration", "iteration_of(path) >= iteration"),
    Mutant("train/checkpoint.py", 'told(f"a checkpoint is passed over: {problem}")', "pass"),
    Mutant("train/folder.py", "if isinstance(problem, OSError) and problem.errno is not None:", "if True:"),
    Mutant("run_directory.py", "discard_after(run.checkpoints(experiment), -1)", "pass"),
    Mutant("run_directory.py", "discard_after(self.checkpoints(experiment), iteration)", "pass"),
    Mutant("run_directory.py", "(self.metrics, self.timings, self.evaluations, self.alarms)", "(self.metrics, self.evaluations, self.alarms)"),
    Mutant("run_directory.py", "for line in lines[:-1]]", "for line in lines if line]"),
    Mutant("run_directory.py", "Folder.at(chosen) / experiment.run.name", "Folder.at(chosen)"),
    Mutant("run.py", "DiskGuard(recorder, disk)", "recorder"),
    Mutant("run.py", "replace_text(directory.summary, ", "directory.summary.write_text("),
    Mutant("disk.py", "if problem.errno not in REFUSALS:", "if False:"),
    Mutant("disk.py", "iteration_of(complete[-1])", "iteration_of(complete[0])"),
    Mutant("lock.py", "fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
    Mutant("lock.py", "stream.truncate(0)", "stream.seek(0)"),
    # Preference data: rows by address, the winner first, nothing twice, nothing damaged.
    Mutant("data/preferences.py", 'key("order", epoch)', 'key("order", 0)'),
    Mutant("data/preferences.py", 'key("flip", *address)', 'key("flip", address[1])'),
    Mutant("data/preferences.py", "if row_checksum(latents) != int(self.checksum[row]):", "if False:"),
    Mutant("data/preferences.py", "decided = rows[labels == 1]", "decided = rows"),
    Mutant("data/preferences.py", "latents[int(mirrored)]", "latents[0]"),
    Mutant("data/set_writer.py", "bool(row.skipped) or row_checksum", "True or row_checksum"),
    Mutant("data/set_writer.py", "self.rows[place] for place in range(self.manifest.places)", "row for row in self.rows.values()"),
    Mutant("data/selection.py", "1.0, second > first)", "1.0, first > second)"),
    Mutant("data/selection.py", "if len(labels) < len(given):", "if False:"),
    Mutant("data/parquet_table.py", "at += len(batch)", "at += 0"),
    Mutant("data/pictures.py", "(width - side) // 2", "0"),
    Mutant("models/encoder.py", "(latents - self._shift()) *", "latents *"),
    Mutant("models/encoder.py", "2 * images - 1", "images"),
    Mutant("train/encoding.py", "files[::-1] if swapped else files", "files"),
    Mutant("train/encoding.py", "images.flip(-1)", "images.flip(-2)"),
    Mutant("prepare.py", '"encoder": encoder.identity(),', ""),
    Mutant("prepare.py", "missing = writer.missing()", "missing = list(range(planned.places))"),
    Mutant("collect.py", "float(one > other)", "float(one < other)"),
    Mutant("collect.py", "if not _file(folder, part).exists()", ""),
    Mutant("label/answers.py", "content[: content.rfind(b\"\\n\") + 1]", "content"),
    Mutant("label/desk.py", "if row != self.row():", "if False:"),
    Mutant("label/desk.py", "return self._key(row).integer(2)", "return 0"),
    Mutant("label/server.py", 'self.headers.get("Host") in names', "True"),
]  # fmt: skip


def _caught(mutant: Mutant) -> bool:
    """Runs in a process of its own, forked after the slow imports and before any of raypref."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence:
        copy = Path(folder).resolve()
        for name in ("raypref", "tests", "experiments"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
        (copy / "raypref" / "assets").symlink_to(ROOT / "raypref" / "assets")
        shutil.copy(ROOT / "pyproject.toml", copy)
        source = copy / "raypref" / mutant.file
        source.write_text(source.read_text().replace(mutant.old, mutant.new))
        os.chdir(copy)
        sys.path = [str(copy), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
        sys.dont_write_bytecode = True
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *TESTS[mutant.file].split()])
        os.chdir(ROOT)
        loaded = Path(str(sys.modules["raypref"].__file__))
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or copy not in loaded.parents:
            raise RuntimeError(f"the tests of {mutant} did not run: {code}, {loaded}")
        return code == pytest.ExitCode.TESTS_FAILED


def _check_table() -> None:
    for mutant in MUTANTS:
        found = (ROOT / "raypref" / mutant.file).read_text().count(mutant.old)
        if found != 1:
            raise SystemExit(f"{mutant.file} has {mutant.old!r} {found} times, not once: bring the table up to date.")


def _chosen(patterns: list[str]) -> Iterator[Mutant]:
    for mutant in MUTANTS:
        if not patterns or any(pattern in mutant.file for pattern in patterns):
            yield mutant


def main() -> None:
    """Runs the chosen mutants, two at a time, and says what survived."""
    _check_table()
    torch.set_num_threads(1)
    mutants, survivors = list(_chosen(sys.argv[1:])), 0
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        for mutant, caught in zip(mutants, pool.imap(_caught, mutants, chunksize=1), strict=True):
            survivors += not caught
            print(
                f"{'caught  ' if caught else 'SURVIVED'}  {mutant.file}: {mutant.old!r} -> {mutant.new!r}", flush=True
            )
    print(f"{len(mutants) - survivors} of {len(mutants)} caught")
    raise SystemExit(1 if survivors else 0)


if __name__ == "__main__":
    main()
