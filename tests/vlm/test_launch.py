"""The files in launch/, and `vlm train --launch`."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from vlm.cli import main
from vlm.launch import _accelerate_arguments, launches, split_arguments
from vlm.train import parse_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "launch"
NAMES = ["cpu", "fsdp2", "multi_gpu", "multi_node", "one_gpu", "zero1", "zero2", "zero3", "zero3_offload"]


def command(line: str) -> list[str]:
    """The words of the command in a file's first line."""
    found = re.search(r"(vlm train|sbatch|kubectl) [^\"]+", line)
    assert found, f"line 1 is {line!r}; expected the command that uses the file"
    return shlex.split(found[0])


def test_there_is_one_for_every_kind_of_machine() -> None:
    assert sorted(launches()) == NAMES
    assert all(file.parent == FOLDER for file in launches().values())


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_takes_it_and_it_opens_with_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = launches()[name]
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig)
    words = command(file.read_text(encoding="utf-8").splitlines()[0])
    options, rest = split_arguments(words[2:])
    assert options.launch == name
    monkeypatch.chdir(ROOT)
    parse_config(rest)
    # As accelerate reads it, from wherever it is started.
    monkeypatch.chdir(tmp_path)
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(_accelerate_arguments(options, rest)))
    assert (args.module, args.training_script) == (True, "vlm")
    assert args.training_script_args[:2] == ["train", "configs/train/tiny.yaml"]
    assert args.num_processes == (options.num_processes or config.num_processes)
    assert args.use_deepspeed == name.startswith("zero")
    assert args.use_fsdp == (name == "fsdp2")
    if args.use_deepspeed:
        assert Path(args.deepspeed_config_file).is_file()
    if name not in ("multi_node", "one_gpu"):
        assert args.main_process_port == 0, "two runs on a machine need two ports"


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_command_is_given_too(name: str) -> None:
    if name == "multi_node":
        pytest.skip("needs the address of the first machine")
    line = launches()[name].read_text(encoding="utf-8").splitlines()[1]
    words = shlex.split(line.removeprefix("# "))
    assert words[:3] == ["accelerate", "launch", "--config_file"] and (ROOT / words[3]) == launches()[name]
    args = launch_command_parser().parse_args(words[2:])
    assert (args.module, args.training_script, args.training_script_args[0]) == (True, "vlm", "train")


@pytest.mark.parametrize("file", sorted((FOLDER / "deepspeed").glob("*.json")), ids=lambda file: file.stem)
def test_deepspeed_takes_its_settings(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert command(text.splitlines()[0])[:5] == ["vlm", "train", "configs/train/tiny.yaml", "--launch", file.stem]
    settings = json.loads(text)
    assert settings["zero_optimization"]["stage"] == int(file.stem[4])
    yaml_file = yaml.safe_load(launches()[file.stem].read_text(encoding="utf-8"))
    assert ROOT / yaml_file["deepspeed_config"]["deepspeed_config_file"] == file
    runtime = pytest.importorskip("deepspeed.runtime.config")
    # What accelerate fills in when the run starts.
    filled = {**settings, "train_batch_size": 8, "train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1.0}
    config = runtime.DeepSpeedConfig(filled)
    assert config.zero_optimization_stage == settings["zero_optimization"]["stage"]
    assert config.gradient_accumulation_steps == 1


def test_the_slurm_script_is_one() -> None:
    file = FOLDER / "slurm" / "train.sbatch"
    text = file.read_text(encoding="utf-8")
    first, second = text.splitlines()[:2]
    assert first == "#!/bin/bash", "sbatch wants it there"
    assert (ROOT / command(second)[1]) == file
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True).returncode == 0
    assert {"--requeue", "--signal=USR1@120"} <= {line.removeprefix("#SBATCH ") for line in text.splitlines()}


def test_the_slurm_script_requeues_on_the_status_of_a_stopped_run(tmp_path: Path) -> None:
    """The script itself, with commands of Slurm's names that write down how they are called."""
    log = tmp_path / "calls"
    for name, body in {
        "scontrol": f'echo scontrol "$@" >> {log}; [ "$1" = show ] && echo node1',
        "srun": f'echo srun "${{@: -1}}" >> {log}; exit $STATUS',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)

    def run(status: int) -> int:
        log.unlink(missing_ok=True)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "STATUS": str(status), "SLURM_JOB_ID": "7"}
        env |= {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"}
        words = ["bash", str(FOLDER / "slurm" / "train.sbatch"), "config.yaml", "--seed=1"]
        return subprocess.run(words, env=env, capture_output=True).returncode

    assert run(75) == 0
    assert "srun --seed=1" in log.read_text() and "scontrol requeue 7" in log.read_text()
    assert run(3) == 3
    assert "requeue" not in log.read_text()
    assert run(0) == 0
    assert "requeue" not in log.read_text()


def test_the_kubernetes_job_is_elastic() -> None:
    file = FOLDER / "kubernetes" / "pytorchjob.yaml"
    text = file.read_text(encoding="utf-8")
    assert (ROOT / command(text.splitlines()[0])[3]) == file
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    policy, worker = job["spec"]["elasticPolicy"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert policy["minReplicas"] < worker["replicas"] <= policy["maxReplicas"]
    pod = worker["template"]["spec"]
    [container] = pod["containers"]
    assert container["command"][:4] == ["torchrun", "-m", "vlm", "train"]
    assert (ROOT / container["command"][4]).is_file()
    left = int(next(item["value"] for item in container["env"] if item["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"))
    assert left < pod["terminationGracePeriodSeconds"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_a_wheel_carries_them() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '\n"launch" = "vlm/_launch"\n' in text


def test_options_of_the_launch_are_taken_out() -> None:
    options, rest = split_arguments(["a.yaml", "--launch", "zero2", "--num-processes=4", "--seed=1", "--restart"])
    assert (options.launch, options.num_processes, options.num_machines) == ("zero2", 4, None)
    assert rest == ["a.yaml", "--seed=1", "--restart"]
    assert split_arguments(["a.yaml"])[0].launch is None


def test_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "a.yaml", "--launch", "zero9"]) == 1
    assert "vlm: unknown launch 'zero9'; known: cpu, fsdp2, multi_gpu" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["train", "a.yaml", "--num-processes", "2"])
    assert caught.value.code == 2
    assert "--num-processes without --launch; known launches: cpu" in capsys.readouterr().err
