"""The files of deploy/ are what SLURM, Kubernetes, Ray and a container builder expect, and say what is true."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
SBATCH = DEPLOY / "slurm" / "tags-bench.sbatch"
PLACES = [*sorted(path for path in DEPLOY.rglob("*") if path.is_file()), ROOT / "docs" / "cluster.md"]


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of every `tags-bench …` and `sbatch … tags-bench.sbatch …`, lines that end in a backslash joined."""
    joined = re.sub(r"\\\n[#\s]*", " ", text)
    for line in joined.splitlines():
        for found in re.finditer(r"tags-bench(?:\.sbatch)? ((?:[a-z][a-z-]* )*(?:--?[^`\"]*|$))", line):
            yield shlex.split(found.group(1).rstrip(" .;,)"), comments=True)


def parse(words: list[str]) -> None:
    """Raises AssertionError for a command that there is not, and the command line's own error for an option."""
    import cli

    command: Any = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"no command '{name}'"
        command = command.commands[name]
    command.make_context(command.name, list(words))


@pytest.mark.parametrize("path", PLACES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_exists_with_its_options(path: Path) -> None:
    for words in commands_in(path.read_text(encoding="utf-8")):
        if words and "$@" not in words and "VERB" not in words:
            parse(words)


def test_commands_are_found_and_wrong_ones_refused() -> None:
    text = "sbatch --nodes=4 deploy/slurm/tags-bench.sbatch run --suite paper \\\n#    --gpus 1 --nothing 2\n"
    (words,) = commands_in(text)
    assert words == ["run", "--suite", "paper", "--gpus", "1", "--nothing", "2"]
    with pytest.raises(Exception, match=r"(?i)no such option: '?--nothing") as refused:
        parse(words)
    assert type(refused.value).__name__ == "NoSuchOption"
    with pytest.raises(AssertionError, match="no command 'runn'"):
        parse(["runn"])
    text = (DEPLOY / "kubernetes" / "rayjob.yaml").read_text(encoding="utf-8")
    assert [
        "run",
        "--suite",
        "paper",
        "--all-datasets",
        "--gpus",
        "1",
        "--out",
        "/results",
        "--address",
        "auto",
    ] in list(commands_in(text))


# SLURM ----------------------------------------------------------------------------------------------------------------


def test_the_batch_file_is_sound_shell() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SBATCH)], check=True)


RUNS = 'while [ "$1" != -- ]; do shift; done; shift; "$@"'  # what `ray symmetric-run` does once it has started


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment as a job of three nodes has it; `srun` runs its command here, once, `ray` tells its words and runs
    those behind `--`, and `tags-bench` tells its own and ends with 3."""
    tools = {
        "scontrol": 'printf "n1\\nn2\\nn3\\n"',
        "srun": 'echo "srun $*" | head -n 1; while [ "$1" != bash ]; do shift; done; exec "$@"',
        "ray": 'printf "%s\\n" "$@"; stat -c "token %a $(wc -c < "$RAY_AUTH_TOKEN_PATH")" "$RAY_AUTH_TOKEN_PATH"; '
        'echo "mode $RAY_AUTH_MODE"; test -d "$RAY_TMPDIR" && rmdir "$RAY_TMPDIR"; ' + RUNS,
        "tags-bench": 'printf "told %s\\n" "$@"; exit 3',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin",
        "SLURM_JOB_ID": "987654",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_ON_NODE": "16",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }


def test_the_batch_file_starts_ray_on_every_node_and_gives_the_words_on(slurm: dict[str, str], tmp_path: Path) -> None:
    words = ["run", "--suite", "my suite.yaml", "--out", "/shared/results"]
    if shutil.which("python", path=slurm["PATH"]) is None:
        (tmp_path / "python").symlink_to(shutil.which("python3") or "python3")
    done = subprocess.run(["bash", str(SBATCH), *words], env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr  # that of the command
    first, *told = done.stdout.splitlines()
    assert first.startswith("srun --nodes=3 --ntasks=3 --no-kill --kill-on-bad-exit=0 bash -c ")
    address = "n1:27654"
    rays, command = told[: told.index("--")], told[told.index("token 600 65") :]
    assert rays == [
        *("symmetric-run", "--address", address, "--min-nodes", "3", "--num-cpus", "16", "--num-gpus", "4"),
        "--include-dashboard=false",
    ]
    assert command == ["token 600 65", "mode token", *(f"told {word}" for word in (*words, "--address", address))]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("ray", "command", "code"),
    [
        ("exit 0", "exit 0", 1),  # what `ray symmetric-run` does where it does not start
        ("exit 5", "exit 0", 5),
        (RUNS, "exit 0", 0),
        (RUNS, "exit 3", 3),
        (f"({RUNS}); exit 0", "exit 3", 3),
        (f"({RUNS}); exit 0", "kill -KILL $PPID", 1),
    ],
    ids=["not started", "not started, and said", "well", "not run", "not passed on", "interrupted"],
)
def test_the_exit_code_of_the_job_is_that_of_the_command(
    slurm: dict[str, str], tmp_path: Path, ray: str, command: str, code: int
) -> None:
    for name, body in (("ray", f'rmdir "$RAY_TMPDIR"\n{ray}'), ("tags-bench", command)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    if shutil.which("python", path=slurm["PATH"]) is None:
        (tmp_path / "python").symlink_to(shutil.which("python3") or "python3")
    done = subprocess.run(["bash", str(SBATCH), "run"], env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("the command was not run to its end" in done.stderr) == (code in (1, 5))
    assert not list(tmp_path.glob(".*"))


def test_the_options_given_to_ray_are_those_that_it_has() -> None:
    from ray.scripts import scripts
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    given = re.findall(r"^ +(--[a-z-]+)", SBATCH.read_text(encoding="utf-8").split("ray symmetric-run")[1], re.M)
    assert given == ["--address", "--min-nodes", "--num-cpus", "--num-gpus", "--include-dashboard"]
    own = {option for parameter in symmetric_run.params for option in parameter.opts}
    start = {option for parameter in scripts.start.params for option in parameter.opts}
    assert set(given[:2]) <= own
    assert set(given[2:]) <= start
    assert curate_and_validate_ray_start_args(["--num-cpus", "16"])


@pytest.mark.parametrize("words", [[], ["run", "--address", "auto"], ["run", "--address=auto"]])
def test_the_batch_file_refuses_what_it_cannot_do(slurm: dict[str, str], words: list[str]) -> None:
    done = subprocess.run(["bash", str(SBATCH), *words], env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --address is set by this script" if words else "usage: sbatch")


# Kubernetes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def job() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "kubernetes" / "rayjob.yaml").read_text(encoding="utf-8")))


def test_all_pods_of_the_job_share_image_data_and_results(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    claims = {
        document["metadata"]["name"]: document["spec"]["accessModes"]
        for document in yaml.safe_load_all((DEPLOY / "kubernetes" / "storage.yaml").read_text(encoding="utf-8"))
    }
    assert len(pods) >= 2
    for pod in pods:
        (container,) = pod["containers"]
        assert container["image"] == pods[0]["containers"][0]["image"]
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert places.keys() == volumes.keys()
        shared = {places[name]: volumes[name]["persistentVolumeClaim"]["claimName"] for name in ("data", "results")}
        assert shared == {"/data": "tags-bench-data", "/results": "tags-bench-results"}
        assert all(claims[claim] == ["ReadWriteMany"] for claim in shared.values())
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["securityContext"] == {"runAsUser": 1000, "fsGroup": 1000}
    workers = cluster["workerGroupSpecs"][0]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}  # nothing is computed beside the driver


def test_the_job_asks_for_a_token_and_is_tried_again(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "tags-bench-ray-token"}
    for path in (DEPLOY / "kubernetes" / "rayjob.yaml", ROOT / "docs" / "cluster.md"):
        command = "kubectl create secret generic tags-bench-ray-token --from-literal=auth_token="
        assert command in path.read_text(encoding="utf-8")
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}\n" in locked


# Ray's launcher, the container ----------------------------------------------------------------------------------------


def test_rays_launcher_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.scripts import scripts

    config = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text(encoding="utf-8"))
    prepared = prepare_config(config)
    validate_config(prepared)
    kind = prepared["available_node_types"][prepared["head_node_type"]]
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"])
    start = {option for parameter in scripts.start.params for option in parameter.opts}
    for line in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert line == "ray stop" or line.startswith("RAY_AUTH_MODE=token ray start ")
        assert {word.partition("=")[0] for word in line.split() if word.startswith("--")} <= start


def test_the_container_file_builds_from_what_is_there() -> None:
    text = (DEPLOY / "container" / "Dockerfile").read_text(encoding="utf-8")
    stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.M)
    assert stages == ["base", "cpu", "cuda"]
    for line in re.findall(r"^COPY (.+) \./?$", text, re.M):
        assert all((ROOT / word).exists() for word in line.split())
    python = re.search(r"^ARG PYTHON=(.+)$", text, re.M)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert python is not None
    assert wanted.startswith(f">={python.group(1)}")
    program = re.search(r'RUN python -c "(.+)" \\', text)
    assert program is not None
    done = subprocess.run(
        ["bash", "-c", f'python3 -c "{program.group(1)}"'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "ray[tune,train]>=2.60,<3" in done.stdout.splitlines()


def test_a_container_knows_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.common import environment

    def no_git(*arguments: object) -> str:
        raise FileNotFoundError("git")

    monkeypatch.setattr(environment, "_git", no_git)
    for named, commit in (("", "unknown"), ("0123abc", "0123abc")):
        monkeypatch.setenv("TAGS_BENCH_COMMIT", named)
        environment.revision.cache_clear()
        try:
            assert environment.revision() == (commit, False)
        finally:
            environment.revision.cache_clear()
