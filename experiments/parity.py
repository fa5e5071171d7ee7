"""Our rewards against their authors' packages: at their real sizes, on the same random weights.

`python -m experiments.parity [image_reward] [hpsv2]` starts an actor in the environment that reward workers get from
`reward.backend = "package"`, beside this process on current versions. There the package makes a random checkpoint in
its own layout and scores pictures by its public function; the reward on that backend scores them there too, and ours,
on transformers' towers, here. A JSON line for each size of picture says how far they are apart, and over what range of
scores. Then `raypref train` runs on that backend, with the tiny model, and ours scores the pictures of its evaluations
again. Checkpoints and runs stay in runs/parity."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray
from PIL import Image

from experiments.packages import SIZES, Answers, Authors, Pixels, Scores, Settings, asked, by_reward
from raypref.cluster.environment import delete_environments, in_environment
from raypref.rewards.base import Reward
from raypref.rewards.hpsv2 import HPSv2
from raypref.rewards.image_reward import ImageReward
from raypref.run_directory import RunDirectory

FOLDER = Path("runs/parity")
TOLERANCE = 1e-5
MEANINGFUL = 1e-4
"""Scores of different prompts, or pictures, are at least so far apart: otherwise agreement would mean little."""
RESIZED = {"image_reward": 5e-3}
"""Where the package leaves it to PIL to resize, which rounds to 8 bits, and through which no gradient could pass."""
OURS: dict[str, Callable[..., Reward]] = {"image_reward": ImageReward, "hpsv2": HPSv2}
HELDOUT = ["a red fish in the sea", "a small blue bird on the grass"]
RUN = {
    **{"run.iterations": 2, "run.prompts_per_iteration": 2, "run.chunk_size": 2, "run.output_dir": str(FOLDER)},
    **{"method.search.candidates": 2, "method.search.steps": [8, 16]},
    **{"optimizer.batch_size": 4, "optimizer.micro_batch_size": 4},
    **{"evaluate.every": 0, "evaluate.images_per_prompt": 2, "evaluate.rewards": [], "guard.reward_timeout": 1800.0},
}
"""Few pictures, for each takes seconds to score, on a busy machine many."""


def resized(picture: Pixels, side: int = 224) -> Pixels:
    """As ImageReward's package begins: the short side by PIL, and the middle of the long one."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    image = Image.fromarray(picture).resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def kept(picture: Pixels) -> Pixels:
    """As it is: the package resizes as we do."""
    return picture


def compared(what: str, package: Scores, other: Scores, resized: float = TOLERANCE) -> bool:
    """Prints a line for each size; whether all are near enough, and mean something. `resized` is the tolerance where a
    picture is not of the network's size."""
    fine = []
    for size, wanted, found in zip(SIZES, package, other, strict=True):
        difference, tolerance = float(abs(found - wanted).max()), resized if size != SIZES[0] else TOLERANCE
        spread = float(min(np.ptp(wanted, axis=0).min(), np.ptp(wanted, axis=1).min()))
        fine.append(difference <= tolerance and spread >= MEANINGFUL)
        line = {"name": f"{what}, {size[0]} x {size[1]}", "ok": fine[-1], "difference": difference}
        print(json.dumps(line | {"tolerance": tolerance, "prompts_and_pictures_differ_by": spread}), flush=True)
    return all(fine)


def train(name: str, settings: Settings, address: str) -> RunDirectory:
    """A run of a few pictures on that backend, by a driver of its own."""
    heldout = (FOLDER / "heldout.txt").resolve()
    heldout.write_text("\n".join(HELDOUT))
    given = RUN | {"run.name": f"{name}-run", "run.heldout_prompts": str(heldout), "cluster.address": address}
    given |= {"reward.name": name, "reward.backend": "package", "cluster.reward_workers": 1}
    given |= {f"reward.{key}": value for key, value in settings.items()}
    words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    command = [sys.executable, "-m", "raypref.cli", "train", "experiments/quickstart.toml", "--overwrite"]
    subprocess.run([*command, *words], check=True, stdout=sys.stderr)
    return RunDirectory.open(FOLDER / f"{name}-run")


def rescored(name: str, run: RunDirectory, reward: Reward, prepare: Callable[[Pixels], Pixels]) -> bool:
    """Prints how far an evaluation's mean is from that of our reward on its pictures, for each evaluation."""
    fine = []
    for evaluation in run.all_evaluations():
        sheet = np.asarray(Image.open(run.grid(evaluation.iteration)))
        rows = np.stack(np.split(sheet, evaluation.prompts))
        images = [image for row in rows for image in np.split(row, evaluation.images_per_prompt, axis=1)]
        prompts = [prompt for prompt in HELDOUT for _ in range(evaluation.images_per_prompt)]
        found = asked(reward, [prepare(image) for image in images], prompts)
        (told,) = evaluation.rewards.values()
        difference = float(abs(found.mean() - told.mean))
        fine.append(difference <= TOLERANCE and not evaluation.failures and float(np.ptp(found)) >= MEANINGFUL)
        line = {"name": f"{name}, raypref train, iteration {evaluation.iteration}", "ok": fine[-1]}
        facts = {"difference": difference, "tolerance": TOLERANCE, "reward": told.mean, "ours": found.tolist()}
        print(json.dumps(line | facts), flush=True)
    return len(fine) == 2 and all(fine)


def check(name: str, address: str) -> bool:
    """All of it for one package."""
    started, folder = time.perf_counter(), (FOLDER / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    authors = ray.remote(Authors).options(**in_environment([name], timeout=3600.0)).remote()
    versions = ray.get(authors.versions.remote())
    print(json.dumps({"environment": versions, "seconds": round(time.perf_counter() - started)}), flush=True)
    answers: Answers = ray.get(getattr(authors, name).remote(folder))
    ray.kill(authors)  # its memory is needed
    run = train(name, answers.packaged, address)
    ours, tolerance = OURS[name](**answers.ours, device="cpu"), RESIZED.get(name, TOLERANCE)
    fine = [
        compared(f"{name}, backend = package", answers.package, answers.backend),
        compared(f"{name}, ours", answers.package, by_reward(ours), tolerance),
    ]
    if name in RESIZED:
        fine.append(compared(f"{name}, ours on what PIL has resized", answers.package, by_reward(ours, resized)))
    fine.append(rescored(name, run, ours, resized if name in RESIZED else kept))
    return all(fine)


def main() -> None:
    cluster = ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    fine = [check(name, cluster.address_info["gcs_address"]) for name in sys.argv[1:] or OURS]
    ray.shutdown()
    delete_environments(Path(cluster.address_info["session_dir"]))
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
