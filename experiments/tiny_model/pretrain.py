"""Makes the tiny model and its scorer from nothing: `python -m experiments.tiny_model.pretrain`.

Each stage continues from its last checkpoint in `runs/tiny_model`, so the command can be stopped and repeated.
"""

import argparse
import subprocess
import sys

STAGES = ("dataset", "train_vae", "train_unet", "train_scorer", "prompts", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from-stage", choices=STAGES, default=STAGES[0])
    args = parser.parse_args()
    for stage in STAGES[STAGES.index(args.from_stage) :]:
        print(f"== {stage}", flush=True)
        subprocess.run([sys.executable, "-m", f"experiments.tiny_model.{stage}"], check=True)


if __name__ == "__main__":
    main()
