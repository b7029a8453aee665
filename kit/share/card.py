"""The model card of a shared model: what provenance knows, and no more."""

from __future__ import annotations

import re
from collections.abc import Sequence

from huggingface_hub import ModelCardData

from kit.data import slake, vqa_rad
from kit.grpo.terms import parse_weights
from kit.prompting.messages import INSTRUCTIONS, MODES, REQUIRED_KEYS
from kit.share.card_results import evaluation_section, index_results, markdown_table
from kit.share.provenance import ORIGINS, PHANTOMS, Run, Subject, TrainingData

BOXES = """Boxes are `[x1, y1, x2, y2]` on a grid of 0 to 1000 over the image, whatever its size:
multiply x by width / 1000 and y by height / 1000 for pixels."""
DEMONSTRATION = """**A demonstration: it was trained or evaluated on drawn phantoms, which says
nothing about real images.**"""


def model_card(subject: Subject, title: str, dtype: str) -> str:
    """A hub model card: front matter, use, training, evaluation, data, limits."""
    mode = subject.runs[-1].mode if subject.runs else MODES[1]
    warning = f"\n\n{DEMONSTRATION}" * subject.of_phantoms
    boxes = f"\n\n{BOXES}" * ("boxes" in REQUIRED_KEYS[mode])
    return f"""---
{_front_matter(subject, title)}
---

# {title}

**For research. Not a medical device; not for diagnosis, treatment or any decision about a
patient.**{warning}

Answers a question about a medical image with one JSON object: {_keys_in_words(mode)}.

- Base model: {subject.base_words}
- Weights: the base with a LoRA adapter merged into it, {dtype}; `transformers` alone loads
  them
- License of the weights: {subject.license}
- Made with medvqa-kit, which takes this folder as `--base_model`

## Use

```python
{_snippet(mode)}
```

The instruction is the one of training; others are untried. With torchvision installed,
`AutoProcessor` loads too and does the middle part by itself.{boxes}

## Training

{_training(subject)}

## Evaluation

{evaluation_section(subject)}

## Data

{_data(subject)}

## Limits

{_limits(subject, dtype, mode)}
"""


def _front_matter(subject: Subject, title: str) -> str:
    known = [ORIGINS[name].hub for name in subject.trained_on if name in ORIGINS]
    methods = dict.fromkeys("grpo" if run.is_grpo else "sft" for run in subject.runs)
    data = ModelCardData(
        base_model=subject.base_hub,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license=subject.license,
        language=_languages(subject) or None,
        tags=["medical", "visual-question-answering", subject.model_type, "medvqa-kit", *methods],
        datasets=[name for name in known if name] or None,
        model_name=title,
        eval_results=index_results(subject) or None,
    )
    return data.to_yaml()


def _keys_in_words(mode: str) -> str:
    words = {
        "caption": "`caption` (what it sees)", "reasoning": "`reasoning` (a list of short steps)",
        "boxes": "`boxes` (where the evidence is)", "answer": "`answer` (short)",
    }  # fmt: skip
    *first, last = (words[key] for key in REQUIRED_KEYS[mode])
    return f"{', '.join(first)} and {last}"


def _snippet(mode: str) -> str:
    return f'''from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

folder = "THIS_FOLDER"  # where this file lies, or the repository's name on the hub
model = AutoModelForImageTextToText.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
image_processor = AutoImageProcessor.from_pretrained(folder)

image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
question = "Is there a lesion in the image?"
instruction = """{INSTRUCTIONS[mode]}"""

content = [
    {{"type": "text", "text": instruction + "\\n"}},
    {{"type": "image"}},
    {{"type": "text", "text": "\\n" + question}},
]
text = tokenizer.apply_chat_template(
    [{{"role": "user", "content": content}}], tokenize=False, add_generation_prompt=True
)
pixels = image_processor(images=[image], return_tensors="pt")
places = int(pixels["image_grid_thw"].prod()) // image_processor.merge_size**2
tokens = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * places), return_tensors="pt")
tokens["mm_token_type_ids"] = (tokens["input_ids"] == model.config.image_token_id).int()
inputs = {{name: value.to(model.device) for name, value in {{**tokens, **pixels}}.items()}}
output = model.generate(**inputs, max_new_tokens=256, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'''


def _training(subject: Subject) -> str:
    lora = subject.adapter_config
    lines = [
        f"- Adapter: LoRA (arXiv 2106.09685), rank {lora.get('r')}, alpha "
        f"{lora.get('lora_alpha')}, on the language model"
        + (" and the vision tower" if "visual" in str(lora.get("target_modules")) else ""),
        *(_run_in_words(run) for run in subject.runs),
    ]
    if not subject.runs:
        lines.append("- How it was trained is not known: no config.yaml of a run lay beside it.")
    elif subject.runs[0].config.get("sft_ckpt"):
        lines.append("- The run that it started from was no longer at hand.")
    if any(run.config["quantization"] == "nf4" for run in subject.runs):
        lines.append(
            "- The adapter was trained on a base quantized to 4 bits (QLoRA) and is merged into "
            "the base in full precision. The two differ by the quantization error, so answers may "
            "differ from those of the adapter on the 4-bit base."
        )
    return "\n".join(lines)


def _weights_in_words(text: str) -> str:
    """Four bare numbers with what they are of.

    >>> _weights_in_words("0.2,0.4,0.2,0.2")
    'format 0.2, answer 0.4, consistency 0.2, counterfactual 0.2'
    """
    return ", ".join(f"{name} {weight:g}" for name, weight in parse_weights(text).items())


def _run_in_words(run: Run) -> str:
    config, environment = run.config, run.environment
    processes = environment.get("num_processes", 1)
    parts = config.get("steps_per_generation") or config["gradient_accumulation_steps"]
    batch = config["per_device_train_batch_size"] * parts
    steps = run.summary.get("step", environment.get("total_steps", "an unknown number of"))
    unit = f"prompts, {config['num_generations']} completions each" if run.is_grpo else "questions"
    words = [
        f"{steps} steps of {batch * processes} {unit}",
        f"peak learning rate {config['learning_rate']:g} ({config['lr_scheduler_type']})",
        f"seed {config['seed']}",
        "base in 4-bit NF4 (QLoRA)" if config["quantization"] == "nf4" else "base unquantized",
    ]
    if run.is_grpo:
        name = "GRPO (group relative policy optimisation)"
        words += [
            f"loss {config.get('loss_type')}, beta {config.get('beta')}",
            *([f"objectives {config['objectives']}"] if config.get("objectives") else []),
            f"reward weights {_weights_in_words(config['weights'])} "
            f"(measured {config.get('counterfactual')})",
        ]
    else:
        name = "SFT (supervised fine-tuning)"
        words.append(f"answers as taught: {config.get('prompting_mode')}")
    gpus = environment.get("gpus") or []
    if environment:
        words.append(f"on {processes} process{'es' if processes > 1 else ''} with {_gpus(gpus)}")
    versions = environment.get("packages") or {}
    shown = [f"{p} {versions[p]}" for p in ("torch", "transformers", "peft") if versions.get(p)]
    return f"- {name}: {'; '.join([*words, *([', '.join(shown)] if shown else [])])}."


def _gpus(names: Sequence[str]) -> str:
    kinds = dict.fromkeys(names)
    return " and ".join(f"{list(names).count(k)} x {k}" for k in kinds) or "no GPU"


def _data(subject: Subject) -> str:
    if not subject.data:
        return "The training data were not stated when this card was written."
    rows = [["file", "dataset", "split", "questions", "with evidence boxes", "images"]]
    for data in subject.data:
        for (name, split), records in data.parts.items():
            title = ORIGINS[name].title if name in ORIGINS else name
            boxes = sum(bool(record.regions) for record in records)
            images = len({record.image for record in records})
            rows.append([data.name, title, split, *map(str, (len(records), boxes, images))])
    parts = [markdown_table(rows)]
    if any(split == "test" for data in subject.data for _, split in data.parts):
        parts.append("**Test questions are among these: results on that test split are void.**")
    parts.append(
        "\n".join(
            f"- **{ORIGINS[name].title}**: {ORIGINS[name].words}"
            if name in ORIGINS
            else f"- **{name}**: origin and license unknown to medvqa-kit."
            for name in subject.trained_on
        )
    )
    parts.append("\n".join(_prepared(data) for data in subject.data))
    parts.append(
        "Captions and reasoning that were taught are sentences that the kit made by template from "
        "the datasets' annotations (modality, organ, labelled boxes, answer); no clinician wrote "
        "or checked them."
    )
    return "\n\n".join(parts)


def _prepared(data: TrainingData) -> str:
    """What prepare_data says that it dropped and found."""
    report, n = data.report, len(data.records)
    if not report.keys() >= {"rows_in", "rows_out", "dropped"}:
        return f"- `{data.name}`: no report of prepare_data lay beside it."
    dropped = [f"{count} {reason.replace('_', ' ')}" for reason, count in report["dropped"].items()]
    words = [f"{report['rows_out']} of {report['rows_in']} rows kept"]
    words.append(f"dropped: {', '.join(dropped) or 'none'}")
    if report["rows_out"] != n:
        words.append(f"the file has changed since, to {n} rows")
    if leaks := report.get("leaks"):
        found = [f"{v} {kind.replace('_', ' ')}" for kind, v in leaks["found"].items() if v]
        words.append(f"rows that give away test rows: {', '.join(found) or 'none found'}")
        words[-1] += f" (policy: {leaks['policy']})"
        words += [f"not checked: {len(leaks['unchecked'])} sources"] * bool(leaks["unchecked"])
    shared = report.get("vqa_rad_images_shared_with_test", {})
    if shared.get("images"):
        fate = "dropped" if shared["removed"] else "kept"
        what = f"{shared['images']} VQA-RAD images are in its test split too"
        words.append(f"{what} ({shared['rows']} rows, {fate})")
    if near := report.get("near_duplicates_of_test_images"):
        words.append(f"{near} images nearly equal a test image")
    return f"- `{data.name}`, as prepare_data reports: {'; '.join(words)}."


def _limits(subject: Subject, dtype: str, mode: str) -> str:
    names = {"en": "English", "zh": "Chinese"}
    spoken = " and ".join(names[code] for code in _languages(subject)) or "an unknown language"
    metrics = subject.evaluations[-1].metrics if subject.evaluations else {}
    iou = metrics.get(f"{MODES[1]}/iou/mean")
    measured = "" if iou is None else f" (mean IoU with the gold boxes: {iou:.2f})"
    boxes = (
        "\n- **Known failure: boxes.** They often miss the evidence even where the answer is right"
        f"{measured}. A box is no finding."
    )
    rounded = (
        "\n- Weights are rounded to bfloat16: wording, box coordinates and now and then an answer "
        "come out otherwise than in float32."
    )
    return f"""\
- Tested on benchmark questions at most; not in a clinic, and by no authority.
- Training questions were in {spoken}; other languages are untried, as are kinds of images that
  are not in the training data.{boxes * ("boxes" in REQUIRED_KEYS[mode])}
- Caption and reasoning are fluent because they follow templates. They do not prove that the answer
  rests on the image; flip rates, where measured, say how far it does.
- Many answers can be guessed from the question alone: compare with the question-only floor.
- The output is not always valid JSON.{rounded * (dtype == "bf16")}"""


def _languages(subject: Subject) -> list[str]:
    """``en`` and ``zh``, as far as there are training questions with and without Han script.

    SLAKE is in these two, VQA-RAD in English.
    """
    known = {slake.DATASET, vqa_rad.DATASET, PHANTOMS}
    questions = [
        record.question
        for data in subject.data
        for (name, _), records in data.parts.items()
        if name in known
        for record in records
    ]
    chinese = [bool(re.search(r"[\u4e00-\u9fff]", question)) for question in questions]
    return ["en"] * (not all(chinese)) + ["zh"] * any(chinese)
