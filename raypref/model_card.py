"""The model card beside exported weights: README.md as the Hub reads it, and the pictures that it shows."""

from pathlib import Path

from huggingface_hub import ModelCardData
from PIL import Image

from raypref.checks import HUB_ID
from raypref.core.counted import counted
from raypref.evaluate.heldout import Evaluation
from raypref.figures import before_and_after
from raypref.provenance import is_online, public, trained_on
from raypref.run_directory import GRID_ROWS, RunDirectory, package_versions, replace_text, save_picture
from raypref.train.build import model_family
from raypref.train.experiment import Experiment

CARD = "README.md"
PICTURES = "before_and_after.png"
GAP = 24
"""Pixels between the two grids."""


def write_card(directory: RunDirectory) -> Path:
    """Writes the card and its pictures into the folder of the exported weights. Returns the card's path.

    It holds the run's own numbers, and none that depends on the clock or the machine.
    """
    experiment, evaluations = directory.experiment(), directory.all_evaluations()
    folder = directory.exported(experiment)
    save_picture(picture_before_and_after(directory, evaluations), folder / PICTURES)
    pairs = directory.rows(directory.metrics)[-1]["pairs"]
    sections = [
        f"---\n{front_matter(experiment)}\n---",
        _summary(experiment),
        _held_out(experiment, evaluations),
        _use(experiment),
        _training(experiment, pairs),
    ]
    replace_text(folder / CARD, "\n\n".join(sections) + "\n")
    return folder / CARD


def picture_before_and_after(directory: RunDirectory, evaluations: list[Evaluation]) -> Image.Image:
    """The first and the last picture grid of a run, side by side."""
    before, after = (Image.open(directory.grid(evaluations[place].iteration)) for place in (0, -1))
    sheet = Image.new("RGB", (before.width + GAP + after.width, before.height), "white")
    sheet.paste(before, (0, 0))
    sheet.paste(after, (before.width + GAP, 0))
    return sheet


def front_matter(experiment: Experiment) -> str:
    """What the Hub reads. Which licence the weights have, whoever publishes them decides: often the base model does."""
    model, data, is_lora = experiment.model, experiment.data.path, experiment.model.train == "lora"
    on_the_hub = _on_the_hub(model.path)
    matter = ModelCardData(
        base_model=model.path if on_the_hub else None,
        base_model_relation=("adapter" if is_lora else "finetune") if on_the_hub else None,
        datasets=[data] if _on_the_hub(data) else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[
            *("text-to-image", "diffusers", model.family.replace("_", "-")),
            *(("lora",) if is_lora else ()),
            *("raypref", experiment.method.name),
            *(() if data else (experiment.reward.name,)),
        ],
    )
    return f"# license: is yours to choose; the base model's may bind you\n{matter.to_yaml()}"


def _on_the_hub(path: str) -> bool:
    return HUB_ID.fullmatch(path) is not None and public(path) == path


def _summary(experiment: Experiment) -> str:
    model = experiment.model
    start = f" It continues the LoRA `{public(model.lora_weights)}`, and holds it." if model.lora_weights else ""
    kind = "A LoRA" if model.train == "lora" else "The fully fine-tuned network"
    online, judge = " online" if is_online(experiment.method) else "", experiment.reward.name
    taught = f"{trained_on(experiment)}, judged by `{judge}`" if experiment.data.path else f"reward `{judge}`"
    return (
        f"# {experiment.run.name}\n\n{kind} of `{public(model.path)}`, aligned{online} by raypref: method "
        f"`{experiment.method.name}`, {taught}, "
        f"{counted(experiment.run.iterations, 'iteration')}.{start}"
    )


def _held_out(experiment: Experiment, evaluations: list[Evaluation]) -> str:
    final, judged_on = evaluations[-1], experiment.judged_on()
    told = "Prompts that this run did not train on" if judged_on == "held-out prompts" else f"These are {judged_on}"
    rows = "\n".join(f"| {' | '.join(row)} |" for row in before_and_after(evaluations))
    prompts = "\n".join(experiment.heldout_prompts[:GRID_ROWS])
    sought, judge = f"Training sought a higher `{experiment.reward.name}`.", experiment.reward.name
    if experiment.data.path:
        sought = f"Training saw {trained_on(experiment)}, and no reward: `{judge}` only judges."
    return (
        f"## Before and after\n\n![{judged_on.capitalize()}, the same seeds]({PICTURES})\n\n"
        f"Left: where training started; right: these weights. {told}, the same seeds, a row a prompt:\n\n"
        f"```text\n{prompts}\n```\n\n"
        f"{final.prompts} {judged_on} x {final.images_per_prompt} pictures (mean ± standard error):\n\n"
        f"| | before | after | change |\n|---|---|---|---|\n{rows}\n\n"
        f"{sought} What training has cost, the other rows and the pictures "
        "show as far as they can."
    )


def _use(experiment: Experiment) -> str:
    sampling, family = experiment.sampling, model_family(experiment)
    (imported, base), here = _base_pipeline(experiment), '"this repository, or a folder with its files"'
    kind, name = family.network_kind, family.network_name
    code = {
        "lora": f"{imported}\n\npipe = {base})\npipe.load_lora_weights({here})",
        "full": f"from diffusers import {kind}\n{imported}\n\n{name} = {kind}.from_pretrained({here})\n"
        f"pipe = {base}, {name}={name})",
    }[experiment.model.train]
    return (
        f"## Use\n\n```python\n{code}\n```\n\nTrained and pictured with `{sampling.scheduler}`, "
        f"{sampling.num_inference_steps} steps, guidance scale {sampling.guidance_scale:g}, eta {sampling.eta:g}."
    )


def _base_pipeline(experiment: Experiment) -> tuple[str, str]:
    """What loads the model that training started from: imports, and a call that is left open."""
    model, kind = experiment.model, model_family(experiment).pipeline_kind
    pipeline = "from diffusers import DiffusionPipeline"
    if model.path == "tiny":
        return f"{pipeline}\nfrom raypref.models.base import TINY", "DiffusionPipeline.from_pretrained(TINY"
    if Path(model.path).is_file():
        return f"from diffusers import {kind}", f'{kind}.from_single_file("{public(model.path)}"'
    revision = f', revision="{model.revision}"' if model.revision else ""
    return pipeline, f'DiffusionPipeline.from_pretrained("{public(model.path)}"{revision}'


def _training(experiment: Experiment, pairs: int) -> str:
    model, rows = experiment.model, {}
    rows["method"] = f"{experiment.method.name} ({experiment.method.paper})"
    labelled, rewards = bool(experiment.data.path), ", ".join((experiment.reward.name, *experiment.reward.also))
    rows |= {"trained on": trained_on(experiment), "judged by": rewards} if labelled else {"reward": rewards}
    rows["prompts"] = "those of labelled pictures" if labelled else str(len(experiment.prompts))
    rows["iterations"] = f"{experiment.run.iterations}, {pairs} {experiment.method.row_name()} in all"
    warmup = experiment.optimizer.lr_warmup_iterations
    after = f", after a warm-up of {warmup} iterations" if warmup else ""
    rows["learning rate"] = f"{experiment.optimizer.learning_rate:g}, {experiment.optimizer.lr_scheduler}{after}"
    if experiment.optimizer.ema_decay:
        rows["weights"] = f"a moving average, decay {experiment.optimizer.ema_decay:g}"
    if model.train == "lora":
        targets = ", ".join(model.lora_target_modules)
        rows["adapter"] = f"rank {model.lora_rank}, alpha {model.lora_alpha}, on {targets}"
    rows["seed"] = str(experiment.run.seed)
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    body = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"## Training\n\n| | |\n|---|---|\n{body}"
