"""What lies in the folder of a model or of an adapter, told without torch and without reading
weights, so that a wrong path is refused at once."""

from __future__ import annotations

import json
from pathlib import Path

from kit.errors import UserError
from kit.model.families import family_of

TINY = "tiny"

_MORE_THAN_LORA = ("modules_to_save", "trainable_token_indices")
MERGE = "merge it into its base (PEFT's merge_and_unload) and give the result as --base_model"


def base_folder() -> Path:
    """Where the embedded base model lies."""
    return Path(__file__).parent / "tiny_base"


def resolve_base(name: str) -> str | Path:
    """A folder for ``tiny`` and for local paths; a hub name otherwise.

    Raises:
        UserError: a path that is not there, or a folder of another family (``kit.model.families``).
    """
    if name == TINY:
        return base_folder()
    path = Path(name).expanduser()
    if not path.exists():
        looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
        if looks_local or (path.parent.is_dir() and str(path.parent) != "."):
            fix = (
                "give a folder with config.json, a hub name like Qwen/Qwen2-VL-2B-Instruct, or tiny"
            )
            raise UserError("no such model folder", where=name, fix=fix)
        return name
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise UserError(
            "this is an adapter, not a base model", where=path, fix="give it as adapter"
        )
    config = read_model_json(path / "config.json", what="a model's config.json")
    family_of(config.get("model_type"), where=path)
    if not any(path.glob("*.safetensors")):
        fix = "the kit loads safetensors only; convert the weights"
        raise UserError("the model folder holds no *.safetensors", where=path, fix=fix)
    return path


def require_adapter(folder: str | Path) -> None:
    """Check that a folder holds a LoRA adapter, without reading its weights.

    Raises:
        UserError: no such folder, no finished adapter in it, or one with more than LoRA layers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fix = "give a folder with adapter_config.json, as train_sft writes it"
        raise UserError("no such adapter folder", where=folder, fix=fix)
    if (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        what = "a whole model, not an adapter: it has no adapter_config.json"
        raise UserError(what, where=folder, fix="give it as --base_model")
    config = adapter_config(folder)
    kind = config.get("peft_type")
    if kind != "LORA":
        what = f"not a LoRA adapter: peft_type is {kind!r}"
        raise UserError(what, where=folder / "adapter_config.json", fix="is the file whole?")
    more = {name: config[name] for name in _MORE_THAN_LORA if config.get(name)}
    if config.get("bias", "none") != "none":
        more["bias"] = config["bias"]
    if more:
        told = ", ".join(f"{name} is {value!r}" for name, value in more.items())
        what = f"the adapter trained more than LoRA layers: {told}"
        raise UserError(what, where=folder / "adapter_config.json", fix=MERGE)
    if not (folder / "adapter_model.safetensors").is_file():
        fix = "the kit loads safetensors only; is the run finished?"
        raise UserError("no adapter_model.safetensors", where=folder, fix=fix)


def adapter_base(folder: str | Path) -> str:
    """The name of the base model that an adapter folder was trained on."""
    return adapter_config(Path(folder)).get("base_model_name_or_path") or ""


def named_base(folder: str | Path) -> str:
    """The base model that an adapter names, which must be there.

    Raises:
        UserError: it names none, or one that is not there.
    """
    fix = "give its base with --base_model"
    name = adapter_base(folder)
    if not name:
        raise UserError("the adapter does not name its base", where=folder, fix=fix)
    try:
        resolve_base(name)
    except UserError as error:
        what = f"the base that the adapter names cannot be used: {error.what}"
        raise UserError(what, where=f"{name}, named by {folder}", fix=fix) from error
    return name


def adapter_config(folder: Path) -> dict:
    """What an adapter says of itself.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    return read_model_json(folder / "adapter_config.json", what="an adapter_config.json")


def read_model_json(path: Path, what: str) -> dict:
    """One JSON file of a model's folder.

    Raises:
        UserError: it is missing or damaged; ``what`` says what it is ("a model's config.json").
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
        return value
    except FileNotFoundError as error:
        raise UserError(
            f"the folder holds no {what.split()[-1]}",
            where=path.parent,
            fix=f"give a folder with {what}",
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {what}: {error}", where=path, fix="is the file whole?"
        ) from error
