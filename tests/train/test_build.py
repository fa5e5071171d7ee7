"""What a run says where its reward or its model cannot be loaded."""

import shutil

import pytest
from diffusers import UNet2DConditionModel

from raypref.models.base import ModelConfig
from raypref.train.build import build_denoiser, build_scorer
from raypref.train.experiment import EvaluateConfig, RewardConfig
from raypref.train.stopped import StoppedRun


def test_a_reward_that_cannot_be_loaded_ends_the_run_with_the_reason(make_experiment):
    reward = RewardConfig("vp_score", settings={"checkpoint": "mine.pt"})
    experiment = make_experiment(reward=reward, evaluate=EvaluateConfig(rewards=()))
    with pytest.raises(
        StoppedRun, match=r"the reward 'vp_score' cannot be loaded: reward\.checkpoint = 'mine\.pt': no"
    ):
        build_scorer(experiment)


def test_a_model_that_is_not_to_be_had_ends_the_run_with_what_to_run(make_experiment, monkeypatch, random_model):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    absent = make_experiment(model=ModelConfig(path="nobody/nothing", device="cpu"))
    for build in (build_denoiser, build_scorer):
        with pytest.raises(
            StoppedRun, match=r"model\.path = 'nobody/nothing' cannot be loaded: .*`hf download nobody/"
        ):
            build(absent)
    for field in ("vae", "tiny_vae"):
        model = ModelConfig(path=str(random_model), device="cpu", **{field: "nobody/nothing"})
        with pytest.raises(StoppedRun, match=rf"model\.{field} = 'nobody/nothing' cannot be loaded"):
            build_scorer(make_experiment(model=model))


def test_a_network_that_wants_more_than_latents_time_and_text_is_refused(make_experiment, random_model, tmp_path):
    def changed(**settings: object) -> None:
        folder = tmp_path / next(iter(settings))
        unet = UNet2DConditionModel.from_config(
            dict(UNet2DConditionModel.load_config(random_model / "unet")) | settings
        )
        shutil.copytree(random_model, folder)
        unet.save_pretrained(folder / "unet")
        build_denoiser(make_experiment(model=ModelConfig(path=str(folder), device="cpu")))

    with pytest.raises(StoppedRun, match="its network takes 9 channels and predicts 4: it paints into"):
        changed(in_channels=9)
    with pytest.raises(StoppedRun, match=r"its network is told the guidance scale \(time_cond_proj_dim\)"):
        changed(time_cond_proj_dim=8)
