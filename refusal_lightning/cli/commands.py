"""The table of subcommands: what each is for, what it reads, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refusal_lightning.cli import from_scores, run_folder, run_stages

if TYPE_CHECKING:
    import jsonargparse


def add_folder(parser: jsonargparse.ArgumentParser) -> None:
    """The argument of `init`, which may be left out."""
    parser.add_argument("folder", type=str, nargs="?", default=".", help="Where to write; made if it is not there.")


@dataclass(frozen=True)
class OwnFlags:
    """Arguments of a command that neither a configuration nor its function's signature gives."""

    add: Callable[[jsonargparse.ArgumentParser], None]
    redirect: Callable[[str, dict[str, Any]], tuple[str, dict[str, Any]]] = lambda target, values: (target, values)
    """From the command's target and all values to what is called instead, and with which arguments."""


@dataclass(frozen=True)
class Command:
    """A subcommand and the function `module:name` that does it.

    A stage reads ``sections`` of a configuration file and its function takes them by name. A tool has no sections:
    its function's own parameters are its arguments, or the fields of ``settings``, the dataclass it takes. A function
    that returns a number gives the exit status.
    """

    help: str
    target: str
    sections: tuple[str, ...] = ()
    settings: str | None = None
    own_flags: OwnFlags | None = None


COMMANDS = {
    "init": Command(
        "write a commented configuration and sample prompts to start from",
        "refusal_lightning.cli.starter:init",
        own_flags=OwnFlags(add_folder),
    ),
    "run": Command(
        "run all stages in one process, with the model loaded once",
        "refusal_lightning.pipeline.run:run",
        (
            "model",
            "data",
            "store",
            "trainer",
            "runs",
            "cache",
            "select",
            "evaluate",
            "judging",
            "capability",
            "analyze",
        ),
        own_flags=OwnFlags(run_stages.add_flags, run_stages.redirect),
    ),
    "cache": Command(
        "run the prompts through the model once and keep their activations in the store",
        "refusal_lightning.stages.cache.stage:cache",
        ("model", "data", "store", "trainer", "runs", "cache"),
    ),
    "select": Command(
        "find the refusal direction from the store and choose the best candidate",
        "refusal_lightning.stages.select.stage:select",
        ("model", "data", "store", "trainer", "runs", "cache", "select"),
        own_flags=OwnFlags(from_scores.add_flags, from_scores.redirect),
    ),
    "evaluate": Command(
        "measure refusal and loss under baseline, ablation and activation addition",
        "refusal_lightning.stages.evaluate.stage:evaluate",
        ("model", "data", "trainer", "runs", "evaluate", "judging"),
    ),
    "analyze": Command(
        "measure the candidates and the selected direction on the store's activations, without the model",
        "refusal_lightning.stages.analyze.stage:analyze",
        ("model", "data", "store", "trainer", "runs", "cache", "select", "analyze"),
    ),
    "capability": Command(
        "run tasks of lm-evaluation-harness on the intervened model",
        "refusal_lightning.stages.capability.stage:capability",
        ("model", "trainer", "runs", "capability"),
    ),
    "report": Command(
        "write a run's report.html again, without the model and the store",
        "refusal_lightning.stages.report:report",
        ("model", "runs"),
        own_flags=OwnFlags(run_folder.add_flags, run_folder.redirect),
    ),
    "doctor": Command(
        "check the model, its template and its tokens before any number is reported",
        "refusal_lightning.stages.doctor:doctor",
        ("model", "data", "trainer", "doctor"),
    ),
    "plan": Command(
        "say what a run will take, without loading the model: memory, arithmetic, time, disk",
        "refusal_lightning.planning.stage:plan",
        ("model", "data", "store", "trainer", "cache", "select", "evaluate", "plan"),
    ),
    "data prepare": Command(
        "build the paper's datasets from their public sources",
        "refusal_lightning.data.prepare_config:data_prepare",
        settings="refusal_lightning.data.prepare_config:PrepareConfig",
    ),
    "judge": Command(
        "judge any file of completions",
        "refusal_lightning.stages.evaluate.judging:judge",
        settings="refusal_lightning.judges.config:JudgeConfig",
    ),
    "store info": Command("show what is in a store", "refusal_lightning.cli.store_commands:store_info"),
    "store verify": Command(
        "recompute every checksum of a store and name what is damaged",
        "refusal_lightning.cli.store_commands:store_verify",
    ),
    "store repair": Command(
        "drop what is damaged in a store, so that `cache` computes just that",
        "refusal_lightning.cli.store_commands:store_repair",
    ),
    "store copy": Command(
        "copy a store, or a folder of them, so that the copy can be read and continued at any moment",
        "refusal_lightning.cli.store_commands:store_copy",
    ),
    "store export": Command(
        "write a selection of a store to one safetensors or npz file",
        "refusal_lightning.cli.store_commands:store_export",
    ),
    "completion": Command(
        "print a script by which bash or zsh completes commands, keys and values",
        "refusal_lightning.cli.completion:completion",
    ),
    "schema": Command(
        "print a JSON schema of the configuration file, for editors", "refusal_lightning.cli.schema:print_schema"
    ),
}
