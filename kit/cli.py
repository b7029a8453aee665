"""The command ``medvqa``: a table of what can be run, which launch/*.py, SLURM and the
documentation share.

``medvqa NAME [flags]`` and ``python launch/NAME.py [flags]`` are the same, and so are
``accelerate launch -m kit.cli NAME`` and ``medvqa NAME --accelerate_config zero2``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

USAGE = "usage: medvqa COMMAND [flags]        medvqa COMMAND --help says which"


@dataclass(frozen=True)
class Command:
    """A command by the names of its configuration class and function, so that naming one loads
    nothing.

    ``words``: the list among its keys that words ahead of the first flag fill. ``reads``: the
    reader of its records, if it runs in several processes too.
    """

    summary: str
    config: str
    function: str
    words: str | None = None
    reads: str | None = None

    @property
    def config_class(self) -> type:
        return _load(self.config)

    @property
    def entry_point(self) -> Callable[[object], object]:
        """The function that runs it."""
        return _load(self.function)

    def run(self, config: object) -> int:
        """Run it in this process; returns its exit code."""
        code = self.entry_point(config)
        return code if isinstance(code, int) else 0  # prepare returns its report


COMMANDS = {
    "quickstart": Command(
        "everything below on phantoms, with the embedded model, on a CPU",
        "kit.demo.config:QuickstartConfig", "kit.demo.quickstart:quickstart",
    ),
    "prepare_data": Command(
        "published sets or your own data into records, with a report of what was wrong",
        "kit.data.prepare:PrepareConfig", "kit.data.prepare:prepare",
    ),
    "look": Command(
        "records as a page: images, boxes, targets, and what is wrong with them",
        "kit.report.config:LookConfig", "kit.report.look:look", words="data",
    ),
    "gpu_setup": Command(
        "what a run will take, before it is queued",
        "kit.plan.config:PreflightConfig", "kit.plan.preflight:preflight",
    ),
    "train_sft": Command(
        "supervised fine-tuning: LoRA, QLoRA or full",
        "kit.train.config:SftConfig", "kit.train.sft:train",
        reads="kit.data.records:read_sft_records",
    ),
    "cf_proxy": Command(
        "GRPO records, with what the SFT model's answers rest on",
        "kit.evaluate.config:CfProxyConfig", "kit.evaluate.cf_proxy:cf_proxy",
        reads="kit.data.records:read_sft_records",
    ),
    "cf_pairs": Command(
        "records of images without their evidence, or without a control, to fine-tune on",
        "kit.evaluate.config:CfPairsConfig", "kit.evaluate.cf_pairs:cf_pairs",
    ),
    "train_grpo": Command(
        "GRPO with a counterfactual reward",
        "kit.grpo.config:GrpoConfig", "kit.grpo.grpo:train",
        reads="kit.data.grpo_records:read_grpo_records",
    ),
    "evaluate": Command(
        "accuracy, boxes, and whether answers need their evidence",
        "kit.evaluate.config:EvaluateConfig", "kit.evaluate.evaluation:evaluate",
        reads="kit.data.records:read_sft_records",
    ),
    "ask": Command(
        "one question about an image: boxes, probability, what is said without the boxes",
        "kit.evaluate.ask_config:AskConfig", "kit.demo.serve:ask_or_serve", words="image",
    ),
    "report": Command(
        "several evaluations on one page",
        "kit.report.config:ReportConfig", "kit.report.report:report", words="evaluations",
    ),
    "certify": Command(
        "which answers may be given, so that at most a chosen share is bad",
        "kit.report.config:CertifyConfig", "kit.report.certify:certify_run", words="evaluation",
    ),
    "audit": Command(
        "anybody's predictions under every convention, with floors, leaks and claims checked",
        "kit.audit.config:AuditConfig", "kit.audit.audit:audit", words="predictions",
    ),
    "curves": Command(
        "training curves as a page",
        "kit.report.config:CurvesConfig", "kit.report.curves:curves", words="runs",
    ),
    "choose_prompts": Command(
        "of GRPO's records those whose evidence can be put to the test, and as many others",
        "kit.study.config:ChooseConfig", "kit.study.prompts:choose_prompts",
    ),
    "study": Command(
        "several systems with several seeds, trained and evaluated alike, on one page",
        "kit.study.config:StudyConfig", "kit.study.study:study", words="study",
    ),
    "export": Command(
        "one merged model with its card, to share",
        "kit.share.config:ExportConfig", "kit.share.export:export",
    ),
    "check_boxes": Command(
        "what the numbers of a model's boxes count",
        "kit.evaluate.config:BoxCheckConfig", "kit.evaluate.box_check:check_boxes",
    ),
    "phantoms": Command(
        "draw phantoms in the layout of SLAKE",
        "kit.data.config:PhantomConfig", "kit.data.phantom.__main__:draw",
    ),
    "benchmark": Command(
        "this kit beside TRL's trainers and transformers' generate",
        "kit.demo.config:BenchmarkConfig", "kit.demo.bench.benchmark:benchmark",
    ),
    "pretrain_tiny": Command(
        "make the embedded model from scratch",
        "kit.demo.config:PretrainConfig", "kit.demo.pretrain:pretrain",
    ),
}  # fmt: skip
OTHERS = {
    "slurm": "send stages, pipelines and sweeps to a SLURM cluster, see and cancel them",
    "configs": "the names of the configuration files that come with the kit, and where they are",
    "completion": "completion of commands and flags: bash, zsh and others",
}


def main() -> None:
    """The console command."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return
    if arguments[0] == "--version":
        from kit import __version__

        print(f"medvqa-kit {__version__}")
        return
    from kit import command

    command.run(lambda: execute(*arguments))


def main_of(name: str) -> None:
    """What a script of launch/ does: the command of that name, with the script's flags."""
    from kit import command

    command.run(lambda: execute(name, *sys.argv[1:]))


def overview() -> str:
    """Every command in a line."""
    told = {name: one.summary for name, one in COMMANDS.items()} | OTHERS
    width = max(map(len, told)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, summary in told.items()]
    return "\n".join(["medvqa-kit: visual question answering that looks.", "", USAGE, "", *lines])


def execute(name: str, *arguments: str) -> int:
    """Run a command; returns its exit code.

    Raises:
        ConfigError: there is none of that name, or a flag is wrong.
    """
    name = name.replace("-", "_")
    if name == "slurm":
        return _slurm(arguments)
    if name == "configs":
        from kit.shipped import tell

        print(tell(arguments))
        return 0
    if name == "completion":
        return _completion(arguments)
    if name not in COMMANDS:
        raise _unknown(name)
    from kit.command import parse

    one = COMMANDS[name]
    arguments = with_words(one, arguments)
    launch, arguments = _split_launch(arguments) if one.reads else (None, arguments)
    config = parse(one.config_class, arguments, prog=f"medvqa {name}")
    if "RANK" not in os.environ:
        from kit.run.inputs import require_inputs

        require_inputs(config, _load(one.reads) if one.reads else None)
    if launch:
        _launch(launch, name, arguments)
    return one.run(config)


def with_words(command: Command, arguments: Sequence[str]) -> list[str]:
    """``medvqa report a=runs/a b=runs/b`` is ``medvqa report --evaluations a=runs/a b=runs/b``."""
    leads = bool(arguments) and not arguments[0].startswith("-")
    return [*([f"--{command.words}"] if command.words and leads else []), *arguments]


def _split_launch(arguments: Sequence[str]) -> tuple[argparse.Namespace | None, list[str]]:
    """The flags of a launch, if there is ``--accelerate_config``, and those of the command."""
    import argparse

    launcher = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launcher.add_argument("--accelerate_config")
    launcher.add_argument("--num_processes")
    options, rest = launcher.parse_known_args(list(arguments))
    return (options, rest) if options.accelerate_config else (None, list(arguments))


def _launch(launch: argparse.Namespace, name: str, arguments: Sequence[str]) -> None:
    """Become ``accelerate launch``.

    Raises:
        UserError: the file is none under which the kit runs, or DeepSpeed is not installed.
    """
    from kit.errors import need_extra
    from kit.run.launch_files import read_launch_file

    file = read_launch_file(launch.accelerate_config)
    if file.kind == "DEEPSPEED":
        need_extra("deepspeed", "deepspeed")
    count = [f"--num_processes={launch.num_processes}"] if launch.num_processes else []
    module = ["-m", "accelerate.commands.launch", f"--config_file={file.path}", *count]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *module, "-m", "kit.cli", name, *arguments])


def _slurm(arguments: Sequence[str]) -> int:
    from kit.errors import need_extra
    from kit.shipped import ROOT

    need_extra("submitit", "slurm")
    sys.path.insert(0, str(ROOT))
    return importlib.import_module("slurm.submit").main(list(arguments))


def _completion(arguments: Sequence[str]) -> int:
    import argparse

    import shtab

    from kit.command import flags_of
    from kit.errors import ConfigError

    if len(arguments) != 1 or arguments[0] not in shtab.SUPPORTED_SHELLS:
        shells = ", ".join(shtab.SUPPORTED_SHELLS)
        fix = 'for bash: eval "$(medvqa completion bash)" in ~/.bashrc'
        raise ConfigError(f"completion takes one of {shells}", where="completion", fix=fix)
    parser = argparse.ArgumentParser(prog="medvqa")
    commands = parser.add_subparsers()
    for name, one in COMMANDS.items():
        flags = flags_of(one.config_class)
        commands.add_parser(name, parents=[flags], help=one.summary, conflict_handler="resolve")
    for name, summary in OTHERS.items():
        commands.add_parser(name, help=summary)
    print(shtab.complete(parser, shell=arguments[0]))
    return 0


def _unknown(name: str) -> Exception:
    from difflib import get_close_matches

    from kit.errors import ConfigError

    close = get_close_matches(name, [*COMMANDS, *OTHERS], n=1)
    fix = f"did you mean {close[0]!r}?" if close else "medvqa --help lists them"
    return ConfigError(f"there is no command {name!r}", where="command line", fix=fix)


def _load(name: str):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    main()
