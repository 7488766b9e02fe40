"""A real bash, with the script that `completion` prints, completes commands, keys and values."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from refusal_lightning.cli import main
from refusal_lightning.cli.commands import COMMANDS


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script of bash."""
    import contextlib
    import io

    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("bash") / "completion.bash"
    path.write_text(text.getvalue())
    return path


def _complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word of a line."""
    asked = """
        source "$1"; shift
        registered=$(complete -p refusal-lightning); [[ $registered =~ -F\\ ([^ ]+) ]]
        COMP_WORDS=(refusal-lightning "$@"); COMP_CWORD=$#; COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}
        "${BASH_REMATCH[1]}" refusal-lightning "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "--norc", "-c", asked, "bash", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parent)
    assert done.stderr == ""
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def test_commands(script):
    offered = _complete(script, "")
    assert {name.partition(" ")[0] for name in COMMANDS} <= set(offered)
    assert _complete(script, "cac") == ["cache"]
    assert set(_complete(script, "store", "")) >= {"info", "verify", "repair", "copy", "export"}


def test_keys(script):
    assert "--data.n_train" in _complete(script, "cache", "--data.n_")
    assert _complete(script, "select", "--select.kl") == ["--select.kl_threshold"]
    assert _complete(script, "cache", "--select.kl") == []  # of another stage
    assert _complete(script, "select", "--config", "demo", "--from") == ["--from-scores"]
    assert _complete(script, "judge", "--comp")


def test_values(script):
    assert set(_complete(script, "cache", "--model.dtype", "")) == {"float32", "bfloat16", "float16"}
    assert _complete(script, "cache", "--trainer.progress_bar", "f") == ["false"]
    assert _complete(script, "cache", "--data.n_train", "") == []
    assert set(_complete(script, "completion", "")) >= {"bash", "zsh"}


def test_configurations_and_files(script):
    (script.parent / "demonstration.yaml").touch()
    assert set(_complete(script, "cache", "--config", "demo")) == {"demo", "demonstration.yaml"}
    assert _complete(script, "evaluate", "--plugins", "demon") == ["demonstration.yaml"]


def test_a_script_for_zsh(capsys, tmp_path):
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "script").write_text(text := capsys.readouterr().out)
    assert text.startswith("#compdef refusal-lightning") and "--data.n_train" in text
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", tmp_path / "script"], check=True)
