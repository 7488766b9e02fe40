"""The job scripts of hpc/ with a made-up `srun` and `scontrol`: notices, requeues, copies to a node's own disk.

``TEST_BASH`` names another bash than the one in PATH: the scripts are for those from 4.2 on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "hpc").glob("*.sh")), *sorted((ROOT / "hpc").glob("*.slurm"))]
NOTICE = 'kill -USR1 "$JOB"'

# Stands for a stage: adds prompts to the store that it is told of, and writes their shards.
ADDS = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests" / "helpers")!r}]
from stores import fill, make, records
first, end = map(int, sys.argv[1:3])
store = make(sys.argv[sys.argv.index("--store.root") + 1] + "/s.zarr")
store.add_prompts(records(range(first, end)))
fill(store)
"""


@pytest.fixture(autouse=True)
def made_up_stores(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "helpers")


class Job:
    """A job in a folder of its own; what stands for SLURM's commands is shell code."""

    def __init__(self, folder: Path, srun: str = "true", python: str = "", **variables: str) -> None:
        """``srun`` runs for a step, whose command is $STEP and number $COUNT; ``python`` before the package does."""
        self.home, bin_folder = folder, folder / "bin"
        bin_folder.mkdir(parents=True)
        count = 'COUNT=$(($(wc -l <"$RL_HOME/steps") + 1))'
        name = 'while [ "$1" != refusal_lightning ]; do shift; done; STEP=$2'
        self._script("bin/srun", f'WORDS=$*\n{count}\n{name}\necho "$WORDS" >>"$RL_HOME/steps"\n{srun}')
        self._script("bin/scontrol", 'echo "$*" >>"$RL_HOME/scontrol"')
        (folder / "environment" / "bin").mkdir(parents=True)
        self._script("environment/bin/python", f'{python}\nexec {sys.executable} "$@"')
        (folder / "steps").touch()
        (folder / "adds.py").write_text(ADDS)
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RL_"))}
        self.variables = {
            **bare,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RL_HOME": str(folder),
            "RL_ENV": str(folder / "environment"),
            "SLURM_JOB_ID": folder.name,
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_NODELIST": "n1",
            **variables,
        }

    def _script(self, name: str, text: str) -> None:
        path = self.home / name
        path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
        path.chmod(0o755)

    def run(self, script: str = f'. "{ROOT}/hpc/common.sh"; run_stages') -> subprocess.CompletedProcess[str]:
        command = [os.environ.get("TEST_BASH", "bash"), "-c", f"export JOB=$$; {script}"]
        return subprocess.run(command, env=self.variables, capture_output=True, text=True, timeout=120, cwd=self.home)

    @property
    def steps(self) -> list[str]:
        """What srun was called with, step by step."""
        return (self.home / "steps").read_text().splitlines()

    @property
    def requeued(self) -> bool:
        return (self.home / "scontrol").exists()


def test_all_stages_and_their_arguments(tmp_path):
    """Words of all lines of RL_ARGS; no store, no argument and one task more are nothing to stumble over."""
    stages = "doctor cache evaluate analyze"
    job = Job(tmp_path / "1", RL_STAGES=stages, RL_ARGS="--model.name a/b\n\t--data.n_val  4\n", RL_STORE="s3://b/s/")
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert not job.requeued
    trainer = " --trainer.num_nodes 1 --trainer.devices 1 --trainer.strategy auto --trainer.progress_bar false"
    more = "--model.name a/b --data.n_val 4"
    doctor, run = job.steps
    assert doctor.endswith(f"-m refusal_lightning doctor --config configs/demo.yaml{trainer} {more}")
    assert run.endswith(
        "-m refusal_lightning run --stages cache evaluate analyze --config configs/demo.yaml"
        f"{trainer} --store.root s3://b/s/ {more}"
    )
    bare = Job(tmp_path / "2", RL_STAGES="analyze report")
    done = bare.run()
    assert done.returncode == 0, done.stderr
    (words,) = bare.steps
    assert "--nodes=1 --ntasks=1" in words
    assert words.endswith("-m refusal_lightning run --stages analyze report --config configs/demo.yaml")


@pytest.mark.parametrize(
    ("srun", "requeued", "status", "steps"),
    [
        (f"[ $STEP != run ] || {{ {NOTICE}; exit 143; }}", True, 0, 2),
        (f"[ $STEP != doctor ] || {{ {NOTICE}; sleep 0.2; }}", True, 0, 1),
        (f"[ $STEP != run ] || {{ {NOTICE}; sleep 0.2; exit 2; }}", False, 2, 2),
        (f"[ $STEP != run ] || {{ {NOTICE}; sleep 0.2; }}", False, 0, 2),
        (f"[ $STEP != run ] || {{ {NOTICE}; sleep 0.2; exit 1; }}", True, 0, 2),
        ("exit 2", False, 2, 1),
        ("exit 1", False, 1, 1),
    ],
    ids=["stopped", "between", "mistake", "done", "error", "mistake, no notice", "error, no notice"],
)
def test_who_is_requeued(tmp_path, srun, requeued, status, steps):
    """After a notice: whatever has work left, but neither what is done nor a mistake, which a restart would repeat."""
    job = Job(tmp_path / "1", srun, RL_STAGES="doctor cache select evaluate")
    done = job.run()
    assert (job.requeued, done.returncode, len(job.steps)) == (requeued, status, steps), done.stdout


def test_a_notice_reaches_the_step_that_has_only_just_begun(tmp_path):
    job = Job(tmp_path / "1", "trap 'exit 143' USR1\n" + NOTICE + "\nwhile :; do sleep 0.05; done")
    job.run()
    assert job.requeued and len(job.steps) == 1


def test_a_notice_during_the_first_copy_is_heeded(tmp_path):
    """No step is begun that nobody would tell to stop."""
    job = Job(tmp_path / "1", "true", f"{NOTICE}; exec sleep 20", RL_STORE="shared", RL_LOCAL=str(tmp_path / "own"))
    (job.home / "shared").mkdir()
    done = job.run()
    assert job.steps == [] and job.requeued and done.returncode == 0, done.stdout


def prompts(store: Path) -> set[int]:
    """Numbers of the prompts of a store, every value of which is as it should be."""
    from stores import check, records

    from refusal_lightning.store import ActivationStore

    opened = ActivationStore.open(store)
    known = {record.hash: number for number, record in enumerate(records(range(40)))}
    held = [known[prompt] for prompt in opened.prompts.hashes(complete=True)]
    check(opened, held)
    return set(held)


def adding(first: int, end: int, *, before: str = "", after: str = "") -> str:
    words = f'{sys.executable} "$RL_HOME/adds.py" {first} {end} $WORDS'
    return f"{before}\n{words}\n{after}"


def test_the_store_comes_back(tmp_path):
    """From the node's own disk, in spite of a notice; and the next start continues on an empty disk."""
    shared = tmp_path / "shared"
    first = Job(
        tmp_path / "1", adding(0, 10, after=f"{NOTICE}; sleep 0.1; exit 143"), f'case "$*" in *copy*) {NOTICE};; esac'
    )
    first.variables |= {"RL_STORE": f"{shared}/", "RL_LOCAL": str(tmp_path / "own-1")}
    done = first.run()
    assert first.requeued, done.stderr
    assert prompts(shared / "s.zarr") == set(range(10))
    second = Job(tmp_path / "2", adding(0, 20), RL_STORE=str(shared), RL_LOCAL=str(tmp_path / "own-2"))
    second.variables["RL_STAGES"] = "cache"
    done = second.run()
    assert done.returncode == 0, done.stderr
    assert prompts(shared / "s.zarr") == set(range(20))
    assert not list(shared.glob("**/*.lock")) and not list(shared.glob("**/*.partial"))


def test_from_a_disk_of_its_own_each_stage_comes_back(tmp_path):
    """So that a job that ends without notice loses one stage at most."""
    shared, seen = tmp_path / "shared", tmp_path / "seen"
    look = f'ls "{shared}" >>{seen}.$COUNT 2>/dev/null; [ $COUNT != 2 ] || exit 1'
    job = Job(tmp_path / "1", adding(0, 10, before=look), RL_STORE=str(shared), RL_LOCAL=str(tmp_path / "own"))
    done = job.run()
    assert done.returncode == 1
    cache, select = job.steps
    assert "run --stages cache --config" in cache and "run --stages select --config" in select
    assert (tmp_path / "seen.1").read_text() == "" and (tmp_path / "seen.2").read_text() == "s.zarr\n"


def test_two_jobs_on_one_store_are_not_mixed(tmp_path):
    """The one that comes back last is told so, and keeps what it computed beside the shared store."""
    shared, common = tmp_path / "shared", {"RL_STORE": str(tmp_path / "shared"), "RL_STAGES": "cache"}
    quick = Job(tmp_path / "quick", adding(10, 20), **common, RL_LOCAL=str(tmp_path / "own-quick"))
    (quick.home / "run").write_text(f'export JOB=$$; . "{ROOT}/hpc/common.sh"; run_stages\n')
    kept = ["PATH", "RL_HOME", "RL_ENV", "RL_LOCAL", "SLURM_JOB_ID"]
    settings = " ".join(f"{name}='{quick.variables[name]}'" for name in kept)
    slow = Job(
        tmp_path / "slow",
        adding(0, 10, after=f"env {settings} bash {quick.home}/run >{quick.home}/log 2>&1"),
        **common,
        RL_LOCAL=str(tmp_path / "own-slow"),
    )
    done = slow.run()
    assert done.returncode == 2 and not slow.requeued, (done.stdout, done.stderr)
    assert prompts(shared / "s.zarr") == set(range(10, 20)), (quick.home / "log").read_text()
    aside = Path(f"{shared}.of-job-slow")
    assert prompts(aside / "s.zarr") == set(range(10)) and str(aside) in done.stderr


def test_an_array_takes_the_words_of_its_line(tmp_path):
    """However they are parted; arguments for all models come first."""
    (tmp_path / "models.txt").write_text(
        "# a model per line\n\n  configs/a.yaml\n configs/b.yaml \t--model.name  x/y\n"
    )
    job = Job(tmp_path / "1", RL_MODELS=str(tmp_path / "models.txt"), RL_ARGS="--data.n_val 4", RL_STAGES="evaluate")
    shutil.copytree(ROOT / "hpc", job.home / "hpc")
    job.variables |= {"SLURM_ARRAY_TASK_ID": "2", "SLURM_SUBMIT_DIR": str(job.home)}
    done = job.run(f"exec {os.environ.get('TEST_BASH', 'bash')} hpc/models_array.slurm")
    assert done.returncode == 0, done.stderr
    (words,) = job.steps
    assert "--config configs/b.yaml" in words and words.endswith("--data.n_val 4 --model.name x/y")


def test_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", "--external-sources", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
