"""Every mistake of a user ends in one clear line and exit status 2."""

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from refusal_lightning.cli import main
from refusal_lightning.cli.commands import COMMANDS as ALL_COMMANDS
from refusal_lightning.cli.sections import SECTIONS
from refusal_lightning.config import DataConfig
from refusal_lightning.inputs.drawing import draw
from refusal_lightning.io.files import write_bytes

COMMANDS = {name: command for name, command in ALL_COMMANDS.items() if command.sections}
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def _fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on standard error of a call that must exit with status 2."""
    assert main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def _config(tmp_path: Path, content: object) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("command", [["--help"], ["cache", "--help"]])
def test_a_reader_that_has_seen_enough(command):
    """`... --help | head -1` ends without a traceback."""
    program = [sys.executable, "-m", "refusal_lightning", *command]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read().decode() == ""


def test_an_interrupt_that_lightning_caught(capsys, monkeypatch):
    """Its Trainer ends the program with status 1 and no word."""
    import lightning as L
    from torch.utils.data import DataLoader

    class Interrupted(L.LightningModule):
        def predict_step(self, batch: object, batch_idx: int) -> None:
            raise KeyboardInterrupt

    def stage(**_: object) -> None:
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        trainer.predict(Interrupted(), DataLoader([0]))  # type: ignore[arg-type]

    monkeypatch.setattr("refusal_lightning.cli.parsing.load", lambda _: stage)
    kept = signal.getsignal(signal.SIGINT)
    try:
        assert main(["cache"]) == 130
    finally:
        signal.signal(signal.SIGINT, kept)
    assert capsys.readouterr().err.strip().endswith("error: interrupted; go on with the same command")


def test_a_full_disk_in_plain_words(capsys, monkeypatch, small_disk):
    def stage(**_: object) -> None:
        write_bytes(small_disk / "runs" / "result.json", bytes(8 << 20))

    monkeypatch.setattr("refusal_lightning.cli.parsing.load", lambda _: stage)
    assert main(["cache"]) == 1
    said = capsys.readouterr().err
    assert (
        f"error: the disk is full ({small_disk}/runs/result.json): free some space and start the same command" in said
    )
    assert not list((small_disk / "runs").iterdir())


def test_missing_config(capsys):
    assert "'nowhere.yaml' does not exist" in _fails(capsys, "cache", "--config", "nowhere.yaml")
    assert "'nowhere.yaml' does not exist" in _fails(capsys, "cache", "--config=nowhere.yaml")


def test_unknown_command(capsys):
    assert "did you mean cache?" in _fails(capsys, "cach")


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["--model.dtpye", "float16"], "did you mean model.dtype?"),
        (["--batch_size", "3"], "did you mean cache.batch_size?"),
        (["--cache.batch_sizes", "3"], "did you mean cache.batch_size?"),
    ],
)
def test_mistyped_option(capsys, argv, hint):
    assert hint in _fails(capsys, "cache", *argv)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"model": {"dtpye": "float16"}}, "dtpye"),
        ({"modle": {"name": "x"}}, "modle"),
        ({"select": {"kl_treshold": 1}}, "kl_treshold"),  # a section of another stage, for two of the three
        ({"evaluate": {"batch_size": -1}}, "evaluate.batch_size is -1"),
        ({"cache": {"batch_size": 0}}, "cache.batch_size is 0"),
        ({"data": {"n_train": -5}}, "data.n_train is -5"),
        ({"model": {"dtype": "int4"}}, "model.dtype"),
        ("just a text", "no `key: …` mapping"),
        ("model: [unclosed", "is not YAML"),
    ],
)
def test_bad_config_file(tmp_path, capsys, command, content, named):
    assert named in _fails(capsys, command, "--config", _config(tmp_path, content))


def test_the_command_line_wins_wherever_the_file_stands(tmp_path, capsys):
    config = _config(tmp_path, {"select": {"kl_threshold": 0.1}})
    for argv in (
        ["--select.kl_threshold", "5", "--config", config],
        ["--select.kl_threshold", "5", f"--config={config}"],
        ["--config", config, "--select.kl_threshold", "5"],
    ):
        with pytest.raises(SystemExit):
            main(["select", *argv, "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out)["select"]["kl_threshold"] == 5


def test_a_key_of_another_stage_says_where_it_belongs(capsys):
    message = _fails(capsys, "evaluate", "--select.kl_threshold", "5")
    assert "`evaluate` reads model, data, trainer, runs, evaluate, judging: give select.kl_threshold to a" in message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--model.refusal_tokens", "I"],
            "model.refusal_tokens is I; it must be a list of whole numbers or texts, 'auto' or null",
        ),
        (["--model.dtype", "fp16"], "model.dtype is fp16; it must be 'float32', 'bfloat16' or 'float16'"),
        (["--data.n_train", "x"], "data.n_train is x; it must be a whole number"),
        (["--store.shard_mb", "x"], "store.shard_mb is x; it must be a number or null"),
        (["--data.labels", "3"], "data.labels is 3; it must be a list"),
        (["--store.options", "x"], "store.options is x; it must be a mapping"),
        (["--cache.positions", "x"], "cache.positions is x; it must be 'eoi', 'all' or a whole number"),
        (
            ["--data.sets", "{a_train: {source: x.csv, were: {k: v}}}"],
            "data.sets is '{a_train: {source: x.csv, were: {k",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_in_plain_words(capsys, argv, message):
    assert f"error: {message}" in _fails(capsys, "cache", *argv)


def test_an_unknown_option_of_a_set(tmp_path, capsys):
    config = _config(tmp_path, {"data": {"sets": {"a_train": {"source": "x.csv", "were": {"k": "v"}}}}})
    assert "data.sets: there is no option 'were'; did you mean where?" in _fails(capsys, "cache", "--config", config)


def test_negative_batch_size_on_the_command_line(capsys):
    assert "cache.batch_size is -4" in _fails(capsys, "cache", "--cache.batch_size", "-4")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_shipped_configuration_asks_for_no_more_prompts_than_there_are(path):
    data = DataConfig(**yaml.safe_load(path.read_text())["data"])
    if data.root == "dataset":  # made by `data prepare`, as large as the paper's
        assert (data.n_train, data.n_val, data.seed) == (128, 32, 42)
    else:
        root = path.parents[1] / data.root
        assert len(draw(replace(data, root=str(root))).harmful_val) == data.n_val


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("command", COMMANDS)
def test_shipped_configs_parse(capsys, path, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", str(path), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["name"] == yaml.safe_load(path.read_text())["model"]["name"]


def test_command_line_overrides_the_file(capsys, tmp_path):
    path = _config(tmp_path, {"model": {"name": "a"}, "cache": {"batch_size": 3}, "select": {"kl_threshold": None}})
    with pytest.raises(SystemExit):
        main(["cache", "--config", path, "--cache.batch_size", "5", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["model"]["name"], printed["cache"]["batch_size"]) == ("a", 5)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_key(capsys, command):
    import dataclasses

    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for section in COMMANDS[command].sections:
        for field in dataclasses.fields(SECTIONS[section]):
            assert f"--{section}.{field.name}" in text
            entry = re.search(
                rf"--{section}\.{field.name}\+? [^ ]+ ((?:(?!--).)*?)\(type: .*?default: ", text.split("options:")[-1]
            )
            assert entry, f"{section}.{field.name} shows no type and default"
            assert len(entry.group(1).split()) > 2, f"{section}.{field.name} is not explained"


def test_the_overview_imports_little():
    """It is the first thing that anybody sees of the command."""
    code = "import sys; from refusal_lightning.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "COMMAND --help explains every key" in done.stdout
    slow = {"jsonargparse", "yaml", "numpy", "torch", "refusal_lightning.config", "refusal_lightning.judges"}
    assert not slow & set(done.stderr.split())


def test_unforeseen_errors_exit_with_1(capsys, monkeypatch):
    import refusal_lightning.stages.cache.stage as stage

    def explode(**sections):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(stage, "cache", explode)
    assert main(["cache"]) == 1
    assert "RuntimeError: two lines" in capsys.readouterr().err


def test_the_flags_of_one_command(capsys):
    assert "--json goes with --from-scores" in _fails(capsys, "select", "--json")
    assert "unrecognized arguments: --from-scores" in _fails(capsys, "analyze", "--from-scores", "table.json")
    assert "score table nowhere.json cannot be read" in _fails(capsys, "select", "--from-scores", "nowhere.json")


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_every_help_has_the_flags_for_all(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert "--plugins FILE" in (text := " ".join(capsys.readouterr().out.split()))
    assert "--debug" in text
