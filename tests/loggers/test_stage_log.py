"""The log of a stage: who listens, what is logged, and what never is."""

from __future__ import annotations

import csv
import logging
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from nodes import ROOT

from refusal_lightning.cli import main
from refusal_lightning.config import ModelConfig, TrainerConfig
from refusal_lightning.distributed import rate_monitor
from refusal_lightning.distributed.predict import PredictLoop, run_loop
from refusal_lightning.errors import UserError
from refusal_lightning.loggers import registry
from refusal_lightning.loggers.measured import Measured, Work
from refusal_lightning.loggers.registry import LOGGERS, require_loggers
from refusal_lightning.loggers.spec import LoggerSpec, LogPlace
from refusal_lightning.loggers.stage_log import log_at_work, stage_log

CPU = TrainerConfig(accelerator="cpu", progress_bar=False)


class Listener:
    """Lightning's logger as far as a log uses it, which remembers."""

    def __call__(self, place: LogPlace) -> Any:
        return self

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.heard: list[tuple[str, float, int]] = []
        self.ended: str | None = None

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.config = params

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.heard += [(name, value, step) for name, value in metrics.items()]

    def save(self) -> None: ...

    def finalize(self, status: str) -> None:
        self.ended = status

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.heard}


@pytest.fixture
def listener(monkeypatch) -> Listener:
    """One logger of this name, which listens."""
    found = Listener()
    monkeypatch.setattr(LOGGERS, "_entries", {**LOGGERS, "listener": LoggerSpec(found)})
    return found


@pytest.fixture
def place(tmp_path) -> LogPlace:
    return LogPlace(tmp_path / "logs", "tiny", "cache")


def test_what_has_no_value_is_left_out(listener, place):
    scalars = {"rate": 0.5, "none judged": None, "margin": math.nan, "endless": math.inf}
    with stage_log(["listener"], place, {}) as logged:
        logged.write(Measured(scalars, {"auroc": {0: math.nan, 1: 0.75, 2: 0.5}}), prefix="lda/")
    assert [x for x in listener.heard if "seconds" not in x[0]] == [
        ("lda/auroc", 0.75, 1),
        ("lda/auroc", 0.5, 2),
        ("lda/rate", 0.5, 0),
    ]
    assert listener.ended == "success"


def test_the_configuration_without_the_texts_of_prompts(listener, place):
    model = ModelConfig("org/model", system_prompt="Be a pirate.", answer_prefix="Arr")
    with stage_log(["listener"], place, {"model": model, "trainer": CPU}):
        pass
    assert listener.config["trainer"]["accelerator"] == "cpu"
    assert listener.config["model"]["name"] == "org/model"
    assert listener.config["model"]["system_prompt"].startswith("sha256 ")
    assert "pirate" not in str(listener.config) and "Arr" not in str(listener.config)
    assert model.system_prompt == "Be a pirate."


def test_what_was_begun_ends_where_the_stage_fails(listener, place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt), stage_log(["listener"], place, {}):
        raise KeyboardInterrupt
    assert listener.ended == "failed" and log_at_work() is None
    assert listener.heard == [] and caplog.messages == []

    def broken(place: LogPlace) -> Any:
        raise UserError("no such server")

    monkeypatch.setattr(LOGGERS, "_entries", {**LOGGERS, "broken": LoggerSpec(broken)})
    listener.ended = None
    with pytest.raises(UserError, match="no such server"), stage_log(["listener", "broken"], place, {}):
        raise AssertionError("the work began")
    assert listener.ended == "failed"


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_only_the_first_process_logs(name, listener, place, monkeypatch):
    monkeypatch.setenv(name, "1")
    with stage_log(["listener", "csv"], place, {}) as logged:
        logged.write(Measured({"rate": 0.5}))
        assert not logged and log_at_work() is None
    assert listener.heard == [] and not place.folder.exists()


def test_loops_of_one_name_count_together(listener, place):
    with stage_log(["listener"], place, {}) as logged:
        logged.add_work("answers", Work({"prompts": 3, "tokens": 10}, 1, 2.0))
        logged.add_work("answers", Work({"prompts": 5}, 2, 2.0))
        assert logged.work("answers").batches == 3 and logged.work("losses").batches == 0
    speeds = {name: value for name, value, _ in listener.heard}
    assert speeds["speed/answers/prompts_per_s"] == 2.0
    assert speeds["speed/answers/tokens_per_s"] == 2.5


def test_the_rate_of_a_loop(listener, place, monkeypatch):
    """While it works, by the batches of all loops of the name; and once for all of them, at the end."""
    monkeypatch.setattr(rate_monitor, "LIVE_S", 0.0)
    loop = PredictLoop(empty_module(), lambda: [3, 4], name="losses", counts=lambda made: {"texts": made})
    with stage_log(["listener"], place, {}):
        run_loop(CPU, loop, [])
        run_loop(CPU, loop, [])
    live = [(value, step) for name, value, step in listener.heard if name == "live/losses/texts_per_s"]
    assert [step for _, step in live] == [1, 2, 3, 4] and all(value > 0 for value, _ in live)
    assert [name for name, _, _ in listener.heard].count("speed/losses/texts_per_s") == 1


def test_the_rate_of_several_processes(listener, place):
    """They have the same work each, and the first one counts."""
    with stage_log(["listener"], place, {}) as logged:
        monitor = rate_monitor.RateMonitor(logged, "losses", lambda made: {"texts": made})
        run: Any = SimpleNamespace(world_size=4)
        module = empty_module()
        monitor.on_predict_start(run, module)
        monitor.on_predict_batch_end(run, module, 3, None, 0)
        monitor.on_predict_end(run, module)
        assert logged.work("losses").done == {"texts": 12}


def test_no_rate_where_nobody_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "refusal_lightning.distributed.rate_monitor", None)
    run_loop(CPU, PredictLoop(empty_module(), lambda: [3], name="losses", counts=lambda made: {"texts": made}), [])


def empty_module() -> Any:
    from refusal_lightning.distributed.trainer import _EmptyLoop

    return _EmptyLoop()


def test_csv_is_one_table_and_a_job_has_a_version_of_its_own(place):
    for rate in (0.5, 0.25):
        with stage_log(["csv"], place, {"trainer": CPU}) as logged:
            logged.write(Measured({"rate/a": rate}, {"auroc": {2: 0.75}}))
    for version, rate in ((0, 0.5), (1, 0.25)):
        folder = place.folder / "csv" / "cache" / f"version_{version}"
        rows = list(csv.DictReader((folder / "metrics.csv").open(newline="")))
        assert [(row["step"], row["auroc"]) for row in rows if row["auroc"]] == [("2", "0.75")]
        assert [float(row["rate/a"]) for row in rows if row["rate/a"]] == [rate]
        assert yaml.safe_load((folder / "hparams.yaml").read_text())["trainer"]["accelerator"] == "cpu"


def test_unknown_loggers_are_refused_by_name(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("trainer: {logger: [csv, tensorbord]}")
    for stage in ("cache", "select", "evaluate", "capability", "analyze"):
        assert main([stage, "--config", str(config)]) == 2
        told = capsys.readouterr().err
        assert "trainer.logger: there is no logger 'tensorbord'; there are csv, tensorboard, wandb" in told, stage
    assert main(["cache", "--trainer.logger", "[csv, csv]"]) == 2
    assert "trainer.logger is ['csv', 'csv']; it must be different loggers" in capsys.readouterr().err
    assert main(["cache", "--trainer.extra", "{logger: true}"]) == 2
    assert "trainer.extra.logger is not taken: trainer.logger says it" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["cache", "select", "evaluate", "capability", "analyze"])
def test_a_missing_package_is_told_before_any_work(stage, monkeypatch, capsys):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    assert main([stage, "--model.name", "no/model", "--trainer.logger", "[csv, tensorboard]"]) == 2
    told = capsys.readouterr().err
    assert "tensorboard needs the package tensorboard: pip install 'refusal-lightning[tensorboard]'" in told


def test_the_key_of_wandb_is_in_the_environment_or_nothing_leaves(monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra `wandb`")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(UserError, match="WANDB_API_KEY in the environment; with WANDB_MODE=offline"):
        require_loggers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        require_loggers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_loggers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    require_loggers(["wandb"])


def test_nobody_imports_them_who_did_not_ask():
    program = (
        "import sys, lightning\n"
        "from refusal_lightning.stages.cache import stage\n"
        "from refusal_lightning.loggers.registry import require_loggers\n"
        "require_loggers(['tensorboard', 'csv'])\n"
        "print(sorted({'wandb', 'tensorboard', 'torch.utils.tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
