"""From a study file to the runs that it asks for, each with its whole configuration.

A folder a seed, and in it one a system::

    data/                      what is drawn or prepared for all
    seed0/sft/train_sft        the model that every system of the seed starts from
    seed0/sft/cf_proxy.jsonl   the prompts of GRPO, with what its answers rest on, if that is wanted
    seed0/sft/evaluate_test    its answers
    seed0/NAME/train_grpo      a system (``train_sft`` too, where it has its own)
    seed0/NAME/evaluate_test
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kit.command import parse_mapping
from kit.data.config import PhantomConfig, PrepareConfig
from kit.errors import ConfigError
from kit.evaluate.config import CfPairsConfig, CfProxyConfig, EvaluateConfig
from kit.grpo.config import GrpoConfig
from kit.study.config import ChooseConfig
from kit.study.study_file import START, Study, System, laid_at
from kit.train.config import SftConfig

CLASSES = {
    "phantoms": PhantomConfig, "prepare_data": PrepareConfig, "train_sft": SftConfig,
    "cf_proxy": CfProxyConfig, "choose_prompts": ChooseConfig, "train_grpo": GrpoConfig,
    "cf_pairs": CfPairsConfig, "evaluate": EvaluateConfig,
}  # fmt: skip
# those that an entry of data may name as its command
OF_DATA = ("prepare_data", "cf_pairs", "choose_prompts", "phantoms")
LAUNCHED = ("train_sft", "cf_proxy", "train_grpo", "evaluate")  # in several processes, if wanted
SPLITS = {"train": "train", "prompts": "validate", "test": "test"}  # of phantoms, by what for
DATA_KEYS = ("data", "eval_data", "train_data", "slake_root")  # may be a name of data


@dataclass(frozen=True)
class Run:
    """A command with its configuration. ``name``: of its folder or file in the study's folder;
    ``after``: the names of those whose output it reads; ``system`` and ``seed`` are empty for
    data."""

    name: str
    command: str
    config: object
    after: tuple[str, ...] = ()
    system: str = ""
    seed: int | None = None
    evaluation: str = ""

    @property
    def output(self) -> Path:
        return Path(getattr(self.config, "output_dir", None) or self.config.output)


def plan(study: Study, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """What is to be run, each behind those that it reads, whole seeds first.

    Args:
        only: systems, beside the reference. Empty: all.
        seeds: of those of the file. Empty: all.

    Raises:
        ConfigError: a system or seed that there is not; a key that is unknown, wrong, or the
            study's own.
    """
    for kind, asked, there in (("system", only, study.systems), ("seed", seeds, study.file.seeds)):
        if unknown := [one for one in asked if one not in there]:
            fix = f"it has {', '.join(map(str, there))}"
            what = f"the study has no {kind} {unknown[0]}"
            raise ConfigError(what, where=study.path, fix=fix)
    beside = {*only, START, study.file.reference}
    systems = [one for name, one in study.systems.items() if not only or name in beside]
    data = _Data(study)
    runs = [*data.runs]
    for seed in seeds or study.file.seeds:
        runs += _Seed(study, data, seed).runs(systems)
    return runs


class _Data:
    """What all seeds read: ``runs`` make it, ``paths`` say where it is by name."""

    def __init__(self, study: Study):
        self.study = study
        self.paths: dict[str, str] = {}
        self.made_by: dict[str, str] = {}
        self.runs: list[Run] = []
        self.config_of = _Parsed()
        self._phantoms()
        for name, keys in study.file.data.items():
            if isinstance(keys, dict):
                command = keys.get("command", "prepare_data")
                self._make(name, command, {k: v for k, v in keys.items() if k != "command"})
            elif isinstance(keys, str) and keys:
                self.paths[name] = keys
                self.made_by.pop(name, None)
            else:
                fix = "the path of one file, or the keys of the command that makes it"
                raise ConfigError("this is no data", where=f"{study.path}, data: {name}", fix=fix)
        drawn = "prompts" if "prompts" in self.paths else "train"
        self.prompts = study.file.train_grpo.get("data", drawn)
        if study.file.choose_prompts is not None and study.file.cf_proxy is None:
            asked = {"data": self.prompts} | study.file.choose_prompts
            self._make("chosen", "choose_prompts", asked)
            self.prompts = "chosen"

    def _phantoms(self) -> None:
        study, keys = self.study, dict(self.study.file.phantoms)
        if not keys:
            return
        root = str(study.folder / "data/SLAKE")
        drawn = {SPLITS.get(name, name): value for name, value in keys.items()}
        config = self.config_of("phantoms", drawn, {"output": root}, f"{study.path}, phantoms")
        self.runs.append(Run("data/SLAKE", "phantoms", config))
        self.paths["SLAKE"], self.made_by["SLAKE"] = root, "data/SLAKE"
        for name, split in SPLITS.items():
            own = {"dataset": "SLAKE", "split": split, "slake_root": root}
            self._make(name, "prepare_data", own, ("data/SLAKE",))

    def _make(self, name: str, command: str, keys: Mapping, after: tuple[str, ...] = ()) -> None:
        where = f"{self.study.path}, data: {name}"
        if command not in OF_DATA:
            fix = f"one of {', '.join(OF_DATA)}"
            raise ConfigError(f"data cannot be made by {command}", where=where, fix=fix)
        path = str(self.study.folder / "data" / name) + (".json" if command != "phantoms" else "")
        if name in self.paths:
            fix = "give it another name"
            raise ConfigError(f"the study itself makes {name}", where=where, fix=fix)
        keys, made_by = self.resolved(keys)
        config = self.config_of(command, keys, {"output": path}, where)
        self.runs.append(Run(f"data/{name}", command, config, after + made_by))
        self.paths[name], self.made_by[name] = path, f"data/{name}"

    def resolved(self, keys: Mapping) -> tuple[dict, tuple[str, ...]]:
        """Keys with the paths of the data that they name, and the runs that make those."""
        named = {k: v for k, v in keys.items() if k in DATA_KEYS and isinstance(v, str)}
        paths = {key: self.paths.get(name, name) for key, name in named.items()}
        made_by = tuple(self.made_by[name] for name in named.values() if name in self.made_by)
        return {**keys, **paths}, made_by


class _Seed:
    """The runs of one seed."""

    def __init__(self, study: Study, data: _Data, seed: int):
        self.study, self.data, self.seed = study, data, seed
        self.sft: dict[str, Run] = {}  # by their owner
        self.prompts: dict[str, list[Run]] = {}

    def runs(self, systems: Sequence[System]) -> Iterator[Run]:
        for system in systems:
            yield from self._of_system(system)

    def _of_system(self, system: System) -> Iterator[Run]:
        file, owner = self.study.file, self.study.owner(system)
        if owner.name not in self.sft:
            own = {"data": "train"} | file.train_sft | system.sft
            self.sft[owner.name] = self._run(owner, "train_sft", own, seed=self.seed)
            yield self.sft[owner.name]
        model = self.sft[owner.name]
        if system.grpo is not None:
            own = file.train_grpo | {"data": self.data.prompts} | system.grpo
            after = [model]
            if file.cf_proxy is not None and "data" not in system.grpo:
                if owner.name not in self.prompts:
                    self.prompts[owner.name] = [*self._measured(owner, model)]
                    yield from self.prompts[owner.name]
                after.append(self.prompts[owner.name][-1])
                own["data"] = str(after[-1].output)
            model = self._run(system, "train_grpo", own, seed=self.seed, after=after)
            yield model
        for name, asked in self.study.evaluations.items():
            run = self._run(system, "evaluate", {"data": "test"} | asked, name, after=[model])
            yield replace(run, evaluation=name)

    def _measured(self, system: System, model: Run) -> Iterator[Run]:
        """What measures the prompts by a model, and what chooses from them."""
        file = self.study.file
        asked = {"data": self.data.prompts} | file.cf_proxy
        proxy = self._run(system, "cf_proxy", asked, after=[model])
        yield proxy
        if file.choose_prompts is not None:
            asked = {"data": str(proxy.output)} | file.choose_prompts
            yield self._run(system, "choose_prompts", asked, after=[proxy])

    def _run(
        self, system: System, command: str, keys: Mapping, evaluation: str = "",
        *, after: Sequence[Run] = (), seed: int | None = None,
    ) -> Run:  # fmt: skip
        kind = f"{command}_{evaluation}" if evaluation else command
        name = f"seed{self.seed}/{system.name}/{kind}"
        is_file = command in ("cf_proxy", "choose_prompts")
        output = str(self.study.folder / name) + (".jsonl" if is_file else "")
        place = "output_dir" if command.startswith("train") else "output"
        own: dict[str, object] = {place: output}
        if seed is not None:
            own["seed"] = seed
        if after and command != "choose_prompts":
            trained = after[0]
            whole = getattr(trained.config, "finetuning", "lora") == "full"
            adapter = "sft_ckpt" if command == "train_grpo" else "adapter"
            own["base_model" if whole else adapter] = str(trained.output)
        keys, made_by = self.data.resolved(keys)
        where = f"{self.study.path}, {command} of {system.name}"
        config = self.data.config_of(command, keys, own, where)
        waits = tuple(dict.fromkeys([*(run.name for run in after), *made_by]))
        return Run(name, command, config, waits, system.name, self.seed)


class _Parsed:
    """Configurations of a file's keys. Those that differ in what the study sets alone, as of two
    seeds, are read once."""

    def __init__(self):
        self.read: dict[str, object] = {}

    def __call__(self, command: str, keys: Mapping, own: Mapping, where: str) -> object:
        """
        Raises:
            ConfigError: a key is unknown or wrong, or is one that the study sets.
        """
        taken = [key for key in (*own, "num_shards") if key in keys]
        if taken:
            fix = f"leave {taken[0]} out"
            raise ConfigError(f"the study itself sets {taken[0]}", where=where, fix=fix)
        named = {k: v for k, v in keys.items() if k in DATA_KEYS and isinstance(v, str)}
        free = sorted((key, value) for key, value in keys.items() if key not in named)
        name = repr((command, free, sorted(own), sorted(named)))
        with laid_at(where):
            if name not in self.read:
                self.read[name] = parse_mapping(CLASSES[command], {**keys, **own}, where)
            return dataclasses.replace(self.read[name], **own, **named)
