"""Nothing in a configuration or on a command line imports, constructs or runs anything, wherever it stands."""

import dataclasses
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import jsonargparse
import pytest
import yaml

from refusal_lightning.cli import main
from refusal_lightning.cli.commands import COMMANDS
from refusal_lightning.cli.parsing import load
from refusal_lightning.cli.sections import SECTIONS

STAGES = {name: command for name, command in COMMANDS.items() if command.sections}
MODULE = "planted_module"


@pytest.fixture(autouse=True)
def planted(tmp_path, monkeypatch) -> Iterator[None]:
    """A working directory with a module to import and files that payloads touch: none of it may happen."""
    (tmp_path / f"{MODULE}.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\n"
        "class Thing:\n    def __init__(self, *args, **kwargs):\n        Path('constructed').touch()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=False)  # they take most of a call's time
    yield
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    assert MODULE not in sys.modules
    assert {path.name for path in tmp_path.iterdir()} <= {f"{MODULE}.py", "config.yaml", "section.yaml", "__pycache__"}


PAYLOADS = (
    {"class_path": "subprocess.Popen", "init_args": {"args": "touch ran", "shell": True}},
    {"class_path": "logging.FileHandler", "init_args": {"filename": "ran"}},
    {"class_path": f"{MODULE}.Thing"},
    {"class_path": "os.system", "dict_kwargs": {"command": "touch ran"}},
)


def _fields(cls: type, before: str = "") -> list[tuple[str, object]]:
    """The dotted name and type of each field, also of the dataclasses within (`data.sets.any`, `evaluate.sampling`)."""
    found = []
    for name, kind in typing.get_type_hints(cls).items():
        if name not in {field.name for field in dataclasses.fields(cls)}:
            continue
        found.append((f"{before}{name}", kind))
        for inner in _inside(kind):
            if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                found += _fields(inner, f"{before}{name}." + ("any." if "dict" in str(kind) else ""))
    return found


def _inside(kind: object) -> list[object]:
    """A type and all types within it."""
    return [kind, *(below for argument in typing.get_args(kind) for below in _inside(argument))]


def _takes_mappings(kind: object) -> bool:
    return any(typing.get_origin(k) is dict or k is typing.Any or dataclasses.is_dataclass(k) for k in _inside(kind))


FIELDS = {f"{section}.{name}": kind for section, cls in SECTIONS.items() for name, kind in _fields(cls)}
FREE = [name for name, kind in FIELDS.items() if _takes_mappings(kind)]


def _reader_of(field: str) -> str:
    section = field.partition(".")[0]
    return next(name for name, command in STAGES.items() if section in command.sections)


def _nested(field: str, value: object) -> dict:
    for name in reversed(field.split(".")):
        value = {name: value}
    return typing.cast(dict, value)


def _refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2, argv
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def _file(content: object) -> str:
    Path("config.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return "config.yaml"


def test_the_free_mappings_are_found():
    assert {"model.template_options", "store.options", "trainer.extra", "data.sets", "evaluate.sampling"} <= set(FREE)
    assert "data.sets.any.where" in FREE


@pytest.mark.parametrize("field", FIELDS)
def test_an_object_to_build_in_a_file(field, capsys):
    payload = PAYLOADS[list(FIELDS).index(field) % len(PAYLOADS)]
    message = _refused(capsys, _reader_of(field), "--config", _file(_nested(field, payload)))
    assert f"error: {field}.class_path is no key: a configuration is data" in message


@pytest.mark.parametrize("field", FREE)
def test_an_object_to_build_in_every_notation(field, capsys):
    command, thing = _reader_of(field), f"{MODULE}.Thing"
    for below in ({"deep": PAYLOADS[2]}, {"deep": [PAYLOADS[2]]}, [PAYLOADS[2]]):
        assert "class_path is no key" in _refused(capsys, command, "--config", _file(_nested(field, below)))
    for dotted in (f"{field}.class_path", f"{field}.deep.class_path", f"{field}.init_args.args"):
        assert "is no key" in _refused(capsys, command, "--config", _file({dotted: thing}))
        assert "is no key" in _refused(capsys, command, f"--{dotted}", thing)
        assert "is no key" in _refused(capsys, command, f"--{dotted}={thing}")
    for value in (yaml.safe_dump(PAYLOADS[2], default_flow_style=True), f"{{deep: {{class_path: {thing}}}}}"):
        _refused(capsys, command, f"--{field}", value)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(command, capsys):
    """Also in the sections of other stages, and in the settings of a command without sections."""
    about, thing = COMMANDS[command], f"{MODULE}.Thing"
    if about.sections:
        for field in FREE[list(COMMANDS).index(command) % 3 :: 3]:
            assert "is no key" in _refused(capsys, command, "--config", _file(_nested(field, PAYLOADS[0])))
    elif about.settings:
        for setting in dataclasses.fields(load(about.settings)):
            assert "is no key" in _refused(capsys, command, "--config", _file({setting.name: PAYLOADS[2]}))
            assert "is no key" in _refused(capsys, command, f"--{setting.name}.class_path", thing)
    else:
        assert "is no key" in _refused(capsys, command, "place", "--out.class_path", thing)
    for tag in ("!!python/object/apply:os.system [touch ran]", f"!!python/name:{MODULE}.Thing"):
        if about.sections or about.settings:
            assert "is not YAML" in _refused(capsys, command, "--config", _file(f"model: {tag}"))


@pytest.mark.parametrize("field", FREE)
def test_a_name_of_code_in_place_of_a_mapping(field, capsys):
    """A text stays a text, or is no value for the key; `--KEY.help NAME` is no way to import either."""
    command = _reader_of(field)
    for argv in ([f"--{field}", f"{MODULE}.Thing"], [f"--{field}.help", f"{MODULE}.Thing"]):
        try:
            main([command, *argv, "--print_config"])
        except SystemExit:
            capsys.readouterr()
    main([command, "--config", _file(_nested(field, f"{MODULE}.Thing")), "--model.dtype", "no"])


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_not_read_from_elsewhere(section, capsys):
    Path("section.yaml").write_text(yaml.safe_dump(PAYLOADS[2]))
    command = next(name for name, about in STAGES.items() if section in about.sections)
    assert "is a section: give its keys" in _refused(capsys, command, f"--{section}", "section.yaml")
    assert "must be a mapping" in _refused(capsys, "doctor", "--config", _file({section: "section.yaml"}))
    assert "is no key" in _refused(capsys, command, "--config", _file({"config": "section.yaml"}))


def test_nothing_is_read_from_the_environment_or_a_url(capsys, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    for name in ("MODEL__NAME", "PYTHON_M_REFUSAL_LIGHTNING_CACHE_MODEL__NAME", "DEFAULT_MODEL__NAME"):
        monkeypatch.setenv(name, "from-the-environment")
    with pytest.raises(SystemExit):
        main(["cache", "--model.alias", "${HOME}", "--data.root", "$HOME", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["model"]["name"], printed["model"]["alias"], printed["data"]["root"]) == (
        "demo",
        "${HOME}",
        "$HOME",
    )
    for url in ("http://127.0.0.1:9/config.yaml", "memory://config.yaml", "-", "{model: {name: x}}"):
        assert "does not exist" in _refused(capsys, "cache", "--config", url)
    assert "unrecognized" in _refused(capsys, "cache", "--conf", _file({"model": {"name": "x"}}))


def test_a_file_that_names_its_parts_again(capsys):
    """Ten levels of ten names each are 10^10 keys when written out; and a mapping that holds itself."""
    levels = ["  a0: &a0 {x: 1}"]
    levels += [f"  a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}" for n in range(1, 11)]
    bomb = "model:\n template_options:\n" + "\n".join(levels) + "\n  class_path: x\n"
    assert "class_path is no key" in _refused(capsys, "cache", "--config", _file(bomb))
    itself = "model:\n template_options: &a {b: *a, class_path: x}\n"
    assert "class_path is no key" in _refused(capsys, "cache", "--config", _file(itself))
    itself = "model:\n template_options: &a {b: *a}\n"
    assert "has a part that holds itself" in _refused(capsys, "cache", "--config", _file(itself))


@pytest.mark.parametrize("switch", ["model.trust_remote_code", "capability.trust_task_code"])
def test_code_is_let_run_by_the_command_line_only(switch, capsys):
    command = _reader_of(switch)
    assert f"--{switch} true" in _refused(capsys, command, "--config", _file({switch: True}))
    for content in (_nested(switch, True), _nested(switch, "true")):
        for reader in (command, "doctor" if command != "doctor" else "plan"):
            assert f"--{switch} true" in _refused(capsys, reader, "--config", _file(content))
    with pytest.raises(SystemExit):
        main([command, "--config", _file(_nested(switch, True)), f"--{switch}", "false", "--print_config"])


@pytest.mark.parametrize("command", ["evaluate", "judge"])
@pytest.mark.parametrize("key", ["plugins", "plugins.mine"])
def test_a_file_names_no_plugin(command, key, capsys):
    """Only the command line does: a plugin is code."""
    for value in (f"{MODULE}.py", [f"{MODULE}.py"], {"mine": f"{MODULE}.py"}, None):
        message = _refused(capsys, command, "--config", _file({key: value}))
        assert f"`{key}` is no key: a plugin is code, so a file cannot name one" in message
    message = _refused(capsys, "evaluate", "--config", _file({"evaluate": {"plugins": [f"{MODULE}.py"]}}))
    assert "'evaluate' does not accept option 'plugins'" in message
