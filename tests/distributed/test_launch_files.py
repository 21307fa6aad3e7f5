"""Every file of launch/ that can run on a CPU is run: by name, by Accelerate's own command, by Slurm's script, as pods.

tests/vlm/test_launch.py looks at what is written in them.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.distributed.runs import (
    ROOT,
    TWO_STEPS,
    accelerate,
    assert_same_losses,
    assert_same_steps,
    finish,
    kill,
    launch,
    rows,
    skip_without,
    start,
    train,
    wait_for_steps,
    write_config,
)
from vlm.launch import launches

pytestmark = pytest.mark.distributed

slow = pytest.mark.slow
BY_NAME = {"one_gpu": 1, "multi_gpu": 2, "multi_node": 2, "zero3_offload": 2}
"""Launch -> processes; test_exact.py runs the others."""
BY_FILE = {"cpu": 2, "one_gpu": 1, "multi_gpu": 2, "zero1": 2, "zero2": 2, "zero3": 2, "fsdp2": 2}


def free_port() -> int:
    """One that the Slurm script may give too: it takes them by the job's number."""
    for port in range(20000 + os.getpid() % 19000, 40000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


@slow
@pytest.mark.parametrize("name", BY_NAME)
def test_by_name(name: str, whole: Callable[..., Path], tmp_path: Path, garments: Path) -> None:
    skip_without(name)
    words = ["--num-machines", "1"] if name == "multi_node" else []
    process = launch(write_config(tmp_path, garments, **TWO_STEPS), *words, name=name, num=BY_NAME[name])
    status, out = finish(process)
    assert status == 0, out[-4000:]
    assert_same_steps(tmp_path / "run", whole())


@slow
@pytest.mark.parametrize("name", BY_FILE)
def test_by_accelerates_own_command(name: str, whole: Callable[..., Path], tmp_path: Path, garments: Path) -> None:
    skip_without(name)
    config = write_config(tmp_path, garments, **TWO_STEPS)
    words = ["--num_processes", str(BY_FILE[name]), "-m", "vlm", "train", str(config)]
    status, out = finish(accelerate(name, *words))
    assert status == 0, out[-4000:]
    assert_same_steps(tmp_path / "run", whole())


def test_every_file_is_run_in_some_test() -> None:
    assert set(launches()) == {*BY_NAME, *BY_FILE}


@slow
def test_two_machines_meet(whole: Callable[..., Path], tmp_path: Path, garments: Path) -> None:
    """A launcher on each, here on the same one."""
    config = write_config(tmp_path, garments, **TWO_STEPS)
    port = str(free_port())
    there = ["--num-machines", "2", "--main-process-ip", "127.0.0.1", "--main-process-port", port]
    machines = [launch(config, *there, "--machine-rank", str(rank), name="multi_node", num=2) for rank in (0, 1)]
    for machine in machines:
        status, out = finish(machine)
        assert status == 0, out[-4000:]
    assert_same_steps(tmp_path / "run", whole())


SLURM = {
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "scontrol $*" >> "$CALLS"; fi',
    # A task a node, each with its number; the status is the highest of theirs.
    "srun": """shift
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & echo $! >> "$TASKS"; tasks="$tasks $!"; done
for task in $tasks; do wait $task; status=$?; [ $status -gt ${highest:-0} ] && highest=$status; done
exit ${highest:-0}""",
    "vlm": f'exec {shlex.quote(sys.executable)} -m vlm "$@"',
}
"""Commands of Slurm's names, on one machine."""


@slow
def test_a_slurm_job_of_two_nodes_is_requeued_and_goes_on(tmp_path: Path, garments: Path) -> None:
    """SIGUSR1 to the tasks, as two minutes before the time is up; then the job once more."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in SLURM.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    steps = {"num_steps": 40, "save_every": 0}
    config = write_config(tmp_path, garments, **steps)
    calls, tasks = tmp_path / "calls", tmp_path / "tasks"
    number = str(free_port() - 20000)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "CALLS": str(calls),
        "TASKS": str(tasks),
        "SLURM_JOB_ID": number,
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
    }

    def submit() -> subprocess.Popen[str]:
        words = ["bash", str(ROOT / "launch" / "slurm" / "train.sbatch"), str(config)]
        out = subprocess.PIPE
        return subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True, cwd=ROOT)

    job = submit()
    wait_for_steps(tmp_path / "run", 3, job)
    for task in tasks.read_text(encoding="utf-8").split():
        os.kill(int(task), signal.SIGUSR1)
    status, out = finish(job)
    assert status == 0, out[-4000:]
    assert calls.read_text(encoding="utf-8") == f"scontrol requeue {number}\n"
    done = int(rows(tmp_path / "run")[-1]["step"])
    assert done < 40 and f"told to stop: saved at step {done}" in out
    status, out = finish(submit())
    assert status == 0 and f"at step {done} of 40" in out, out[-4000:]
    assert len(calls.read_text(encoding="utf-8").splitlines()) == 1
    alone = train(write_config(tmp_path / "alone", garments, **steps), num=1)
    assert_same_losses(tmp_path / "run", alone, rtol=0.02)


def pod(rank: int, port: int, config: Path) -> subprocess.Popen[str]:
    """The container's own command with another configuration, and what the operator sets, for a process a pod."""
    job = yaml.safe_load((ROOT / "launch" / "kubernetes" / "pytorchjob.yaml").read_text(encoding="utf-8"))
    [container] = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    policy = job["spec"]["elasticPolicy"]
    torchrun, *words = container["command"][:4]
    assert torchrun == "torchrun"
    environment = {item["name"]: item["value"] for item in container["env"]} | {
        "PET_NNODES": f"{policy['minReplicas']}:2",
        "PET_NPROC_PER_NODE": "1",
        "PET_RDZV_BACKEND": policy["rdzvBackend"],
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
        "PET_RDZV_ID": "vlm-train",
        "PET_MAX_RESTARTS": str(policy["maxRestarts"]),
        # That a pod is gone is to be seen within seconds.
        "PET_RDZV_CONF": f"is_host={rank == 0},last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=3",
    }
    return start(["-m", "torch.distributed.run", *words, str(config)], **environment)


@slow
def test_a_pod_is_lost_and_the_job_goes_on(tmp_path: Path, garments: Path) -> None:
    """With one process in place of two, from the newest checkpoint, and the losses of the unbroken run."""
    steps = {"num_steps": 40, "save_every": 2}
    config = write_config(tmp_path, garments, **steps)
    port = free_port()
    first, second = (pod(rank, port, config) for rank in (0, 1))
    wait_for_steps(tmp_path / "run", 5, first)
    kill(second)
    finish(second)
    assert not (tmp_path / "run" / "final").exists(), "it was to be lost in the middle"
    status, out = finish(first)
    assert status == 0, out[-4000:]
    assert "was lost in step" in out and "going on with" in out
    alone = train(write_config(tmp_path / "alone", garments, **steps), num=1)
    assert_same_losses(tmp_path / "run", alone, rtol=0.02)
