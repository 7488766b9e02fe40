"""What control groups leave of the machine's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from refusal_lightning.inference.host_memory import host_memory

HERE = host_memory(Path("no-such-file"))
SMALL, LESS = 200_000_000, 100_000_000


def limit(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("line", "folder", "name", "unlimited"),
    [
        ("0::/slurm/job_7/step_0", "", "memory.max", "max"),
        ("4:cpu,memory:/slurm/job_7/step_0", "memory", "memory.limit_in_bytes", 2**63 - 4096),
    ],
)
def test_the_least_of_a_group_and_those_above_it(tmp_path, line, folder, name, unlimited):
    proc, groups = tmp_path / "cgroup", tmp_path / "groups"
    proc.write_text(f"9:pids:/\n{line}\n")
    assert host_memory(proc, groups) == HERE  # none is to be seen
    limit(groups / folder / "slurm/job_7/step_0" / name, unlimited)
    assert host_memory(proc, groups) == HERE
    limit(groups / folder / "slurm/job_7" / name, SMALL)
    assert host_memory(proc, groups) == SMALL
    limit(groups / folder / "slurm/job_7/step_0" / name, LESS)
    assert host_memory(proc, groups) == LESS
    limit(groups / folder / "slurm/job_8" / name, 1)  # not this process's
    limit(tmp_path / name, 1)  # above them all
    assert host_memory(proc, groups) == LESS


def test_a_container_sees_its_own_limit_at_the_top(tmp_path):
    (tmp_path / "cgroup").write_text("0::/\n")
    limit(tmp_path / "groups" / "memory.max", SMALL)
    assert host_memory(tmp_path / "cgroup", tmp_path / "groups") == SMALL
    (tmp_path / "cgroup").write_text("0::/a/path/of/the/host\n")
    assert host_memory(tmp_path / "cgroup", tmp_path / "groups") == SMALL
