"""`doctor` as a user runs it: one line per check, the JSON file, the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from patients import likely_tokens

from refusal_lightning.cli import main
from refusal_lightning.data import draw_instructions
from refusal_lightning.doctor import CheckContext, Finding
from refusal_lightning.doctor import memory as memory_check
from refusal_lightning.doctor.examination import DoctorInputs, examine
from refusal_lightning.doctor.memory import host_free_memory
from refusal_lightning.doctor.registry import CHECKS, Check
from refusal_lightning.models import load_chat_model
from runs import write_config, write_data

NAMES = list(CHECKS)


@pytest.fixture
def config(tmp_path, tiny_llama_folder):
    """``config(dtype)``: a configuration with which all is well; its path."""
    data = write_data(tmp_path / "data")

    def write(dtype: str = "float32", **model) -> str:
        chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"], dtype=dtype)
        draw = draw_instructions(data, 20, 5, 42)
        first, second = ([chat.encode(i) for i in some[:4]] for some in (draw.harmful_train, draw.harmless_train))
        tokens = likely_tokens(CheckContext(chat, "cpu", first, second))
        settings = {"name": str(tiny_llama_folder), "refusal_tokens": tokens, "dtype": dtype, **model}
        doctor = {"n_prompts": 4, "out": str(tmp_path / "new" / "doctor.json")}
        return write_config(tmp_path, tiny_llama_folder, data, model=settings, doctor=doctor)

    return write


def verdicts(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines() if line.split()[0] in ("ok", "warn", "fail")]


def test_all_is_well(config, tmp_path, capsys):
    assert main(["doctor", "--config", config()]) == 0
    output = capsys.readouterr().out
    assert verdicts(output) == ["ok"] * len(NAMES)
    assert f"{len(NAMES)} checks, 0 failed, 0 warnings" in output
    report = json.loads((tmp_path / "new" / "doctor.json").read_text())
    assert [f["name"].split(",")[0] for f in report["findings"]] == NAMES
    assert {f["verdict"] for f in report["findings"]} == {"ok"}
    assert report["prompts"] == {"harmful": 4, "harmless": 4}
    shown = output + json.dumps(report)
    texts = draw_instructions(tmp_path / "data", 20, 5, 42).sets().values()
    assert not [text for some in texts for text in some if text in shown]


def test_a_failed_check_is_exit_status_1(config, tmp_path, capsys):
    assert main(["doctor", "--config", config(), "--model.refusal_tokens", "[0]"]) == 1
    output = capsys.readouterr().out
    assert verdicts(output).count("fail") == 1
    assert "1 failed" in output
    findings = json.loads((tmp_path / "new" / "doctor.json").read_text())["findings"]
    assert [f["name"] for f in findings if f["verdict"] == "fail"] == ["refusal tokens"]


def test_labels_of_the_users_own_are_named(config, tmp_path, capsys):
    """And refusal tokens are no mistake, since nothing need go by them."""
    own = {"rude": "harmful", "kind": "harmless"}
    sets = {
        f"{label}_{split}": str(tmp_path / "data" / "splits" / f"{role}_{split}.json")
        for label, role in own.items()
        for split in ("train", "val")
    }
    labels = ["--data.labels", json.dumps(list(own)), "--data.sets", json.dumps(sets)]
    assert main(["doctor", "--config", config(), "--model.refusal_tokens", "[0]", *labels]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert "on cpu, 4 rude (as harmful) and 4 kind (as harmless) prompts" in first
    assert any("on rude prompts" in line and "on kind ones" in line for line in lines)
    assert not any("harmful" in line or "harmless" in line for line in lines)


def test_half_precision_is_compared_with_float32(config, capsys):
    assert main(["doctor", "--config", config("bfloat16")]) == 0
    output = capsys.readouterr().out
    for name in ("padding", "batch", "continuation"):
        assert f"ok    {name}, bfloat16" in output
        assert f"ok    {name}, float32" in output
    assert "ok    precision" in output


@pytest.mark.parametrize("free", [1000, None])
def test_no_memory_for_a_second_copy(config, capsys, monkeypatch, free):
    monkeypatch.setattr(memory_check, "free_memory", lambda device: free)
    assert main(["doctor", "--config", config("bfloat16")]) == 0
    output = capsys.readouterr().out
    assert "warn  precision" in output
    assert "skipped: a copy in float32 takes about" in output
    assert "padding, float32" not in output


def test_a_check_that_breaks_is_a_finding(config, capsys, monkeypatch):
    def broken(material):
        raise RuntimeError("two\nlines")

    monkeypatch.setitem(CHECKS._entries, "eoi", Check(broken, needs_weights=False))
    assert main(["doctor", "--config", config()]) == 1
    output = capsys.readouterr().out
    assert "the check itself ended in RuntimeError: two lines" in output
    assert verdicts(output).count("ok") == len(NAMES) - 1


def test_a_check_that_is_registered_is_made(config, capsys, monkeypatch):
    """Before the weights are loaded, with them, and in float32 too, as it says that it needs."""
    monkeypatch.setattr(CHECKS, "_entries", dict(CHECKS._entries))
    loaded = []

    def seen(material: CheckContext) -> Finding:
        loaded.append((material.chat.weights._engine is not None, material.chat.dtype))
        return Finding("own", "nothing", 0.0, 0.0, "ok")

    CHECKS.register("own, without weights", Check(seen, needs_weights=False))
    CHECKS.register("own", Check(seen, in_float32_too=True))
    assert main(["doctor", "--config", config("bfloat16")]) == 0
    assert capsys.readouterr().out.count("ok    own") == 3
    assert loaded == [(False, "bfloat16"), (True, "bfloat16"), (True, "float32")]


def test_a_model_that_does_not_run_is_failed_checks(config, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such kernel")

    path = config("bfloat16")
    monkeypatch.setattr("refusal_lightning.doctor.context.read", broken)
    assert main(["doctor", "--config", path]) == 1
    output = capsys.readouterr().out
    assert verdicts(output) == ["ok"] * 4 + ["fail"] * 3 + ["ok"] + ["fail"] * 5 + ["ok", "fail", "ok"]


def test_from_python(tiny_llama_folder, monkeypatch, capsys):
    """The findings as a value, each told once when it is there; nothing is printed."""
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    prompts = [chat.encode("Name a bird"), chat.encode("Name three trees of the forest")]
    told: list[Finding] = []
    for name in [n for n, check in CHECKS.items() if check.needs_weights and n not in ("padding", "refusal tokens")]:
        monkeypatch.delitem(CHECKS._entries, name)
    result = examine(DoctorInputs(chat, torch.device("cpu"), prompts[:1], prompts[1:]), told.append)
    assert [finding.name.split(",")[0] for finding in result.findings] == list(CHECKS)
    assert told == list(result.findings) and result.seconds > 0
    assert sum(result.count(verdict) for verdict in ("ok", "warn", "fail")) == len(told)
    assert result.findings[-1].verdict == "warn" or result.count("fail")  # a random model refuses nothing
    assert capsys.readouterr().out == ""


def test_mistakes_are_exit_status_2(config, tmp_path, capsys):
    path = config()
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--config", path, "--doctor.out", str(tmp_path / "file" / "x.json")]) == 2
    assert main(["doctor", "--config", path, "--doctor.out", str(tmp_path)]) == 2
    assert main(["doctor", "--config", path, "--doctor.n_prompts", "0"]) == 2
    assert main(["doctor", "--config", path, "--data.n_train", "999"]) == 2
    errors = capsys.readouterr().err.splitlines()
    keys = ("doctor.out", "doctor.out", "doctor.n_prompts", "data.n_train")
    assert all(key in line for key, line in zip(keys, errors, strict=True))


def test_free_memory_minds_limits(tmp_path):
    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert host_free_memory(tmp_path) is None  # not Linux: nobody says
    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert host_free_memory(tmp_path) == 8000 * 1024
    write("proc/self/cgroup", "0::/slurm/job_1/step_0\n")
    for folder, limit in (("slurm/job_1/step_0", "max"), ("slurm/job_1", "4000000"), ("slurm", "6000000")):
        write(f"sys/fs/cgroup/{folder}/memory.max", f"{limit}\n")
        write(f"sys/fs/cgroup/{folder}/memory.current", "1000000\n")
        write(f"sys/fs/cgroup/{folder}/memory.stat", "anon 5\ninactive_file 300000\n")
    assert host_free_memory(tmp_path) == 4_000_000 - 1_000_000 + 300_000
    here = host_free_memory()
    assert here is None or here > 1e6 or not Path("/proc/meminfo").exists()
