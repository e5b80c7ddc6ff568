"""The launchers: linted, dry-run, and run against commands that pretend to be nvidia-smi, srun and gcloud.

What they cannot show is that the real ones answer so: see launch/README.md.
"""

import os
import re
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mofm.training.config import load_config

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])
TRAIN = ["--config", "configs/base.py", "--workdir", "runs/a b"]


@pytest.fixture
def pretend(tmp_path):
    """A function (name, script) that puts a command on the PATH; `pretend.env` is the environment that has it.

    Each call of such a command is a line of `pretend.calls()`.
    """
    folder, log = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()

    def make(name: str, script: str = "") -> None:
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {log}\n{script}\n')
        path.chmod(0o755)

    make.env = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "DRY_RUN")}
    make.env |= {"PATH": f"{folder}:{os.environ['PATH']}", "MOFM_VENV": "none"}
    make.calls = lambda: log.read_text().splitlines() if log.exists() else []
    make.folder = tmp_path
    return make


def run(script: str, *arguments: str, env: dict[str, str], **more: str) -> subprocess.CompletedProcess:
    command = ["bash", str(LAUNCH / script), *arguments]
    return subprocess.run(command, env=env | more, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def test_scripts_are_linted():
    beside = Path(sys.executable).with_name("shellcheck")
    tool = str(beside) if beside.exists() else shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed (pip install 'mofm[dev]'): the launchers were NOT linted")
    done = subprocess.run([tool, "-x", *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*SCRIPTS, *LAUNCH.glob("*.yaml"), LAUNCH / "Dockerfile"], ids=lambda path: path.name)
def test_each_opens_with_how_it_is_used(path):
    lines = path.read_text().splitlines()
    head = [line for line in lines[:4] if line.startswith("# ")]
    assert head
    assert path.name in path.read_text().split("\n\n")[0] or "Usage" in path.read_text()


def test_each_is_told_of():
    told = (LAUNCH / "README.md").read_text()
    missing = [path.name for path in LAUNCH.iterdir() if path.name != "README.md" and f"`{path.name}`" not in told]
    assert not missing


def test_what_launchers_call_there_is(capsys):
    """Options of `mofm train` that they name."""
    from mofm.cli import main

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    help_text = capsys.readouterr().out
    for path in (LAUNCH / "tpu_pod.sh", LAUNCH / "gke_jobset.yaml"):
        assert "--stopped-code" in path.read_text()
    for option in ("--quiet", "--stopped-code", "--workdir", "--config"):
        assert option in help_text


# GPUs of one machine


@pytest.mark.parametrize(
    ("wanted", "visible", "expected"),
    [("2", None, "0,1"), ("all", None, "0,1,2,3"), ("2", "3,5,7", "3,5"), ("all", "2", "2")],
)
def test_local_gpus_are_the_first_of_those_there_are(pretend, wanted, visible, expected):
    pretend("nvidia-smi", "printf '0\\n1\\n2\\n3\\n'")
    pretend("mofm", 'echo "gpus $CUDA_VISIBLE_DEVICES"; printf "<%s>" "$@"')
    more = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    done = run("local_gpus.sh", wanted, *TRAIN, env=pretend.env, **more)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"gpus {expected}\n<train><--config><configs/base.py><--workdir><runs/a b>"


@pytest.mark.parametrize("wanted", ["9", "0", "two", None])
def test_local_gpus_says_how_it_is_used(pretend, wanted):
    done = run("local_gpus.sh", *([wanted] if wanted else []), env=pretend.env)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_more_gpus_than_there_are(pretend):
    pretend("nvidia-smi", "printf '0\\n1\\n'")
    done = run("local_gpus.sh", "4", *TRAIN, env=pretend.env)
    assert done.returncode == 2
    assert "4 GPUs are asked for, and there are 2" in done.stderr


def test_local_gpus_dry(pretend):
    pretend("mofm")
    done = run("local_gpus.sh", "4", "--config", "c.py", env=pretend.env, DRY_RUN="1", CUDA_VISIBLE_DEVICES="0,1,2,3,4")
    assert done.stdout.startswith("CUDA_VISIBLE_DEVICES=0,1,2,3 ")
    assert done.stdout.endswith("mofm train --config c.py\n")
    assert pretend.calls() == []


# SLURM


def test_slurm_runs_a_task_a_gpu(pretend):
    pretend("srun", "exit ${CODE:-0}")
    env = {name: value for name, value in pretend.env.items() if name != "MOFM_VENV"}
    done = run("slurm.sbatch", *TRAIN, env=env, SLURM_JOB_ID="7")
    assert done.returncode == 0, done.stderr
    assert pretend.calls() == [
        "srun --kill-on-bad-exit=1 mofm train --distributed --config configs/base.py --workdir runs/a b"
    ]
    assert run("slurm.sbatch", *TRAIN, env=env, SLURM_JOB_ID="7", CODE="3").returncode == 3
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=?(\S*)", (LAUNCH / "slurm.sbatch").read_text()))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert "gpus-per-task" not in asked
    assert "requeue" in asked


@pytest.mark.parametrize(("code", "requeued"), [(0, True), (5, False)])
def test_slurm_saves_and_queues_again_near_the_time_limit(pretend, code, requeued):
    saving = pretend.folder / "told"
    pretend("srun", f"until [ -e {saving} ]; do sleep 0.05; done; sleep 0.3; exit {code}")
    pretend("scancel", f"touch {saving}")
    pretend("scontrol")
    env = {name: value for name, value in pretend.env.items() if name != "MOFM_VENV"} | {"SLURM_JOB_ID": "7"}
    with subprocess.Popen(["bash", str(LAUNCH / "slurm.sbatch"), *TRAIN], env=env, stderr=subprocess.PIPE) as job:
        for _ in range(200):
            if pretend.calls():
                break
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(30) == code
    assert "scancel --signal=TERM 7" in pretend.calls()
    assert ("scontrol requeue 7" in pretend.calls()) is requeued


@pytest.mark.parametrize(
    ("code", "seconds", "requeued"), [(5, "4000", True), (5, "100", False), (3, "4000", False), (4, "4000", False)]
)
def test_slurm_queues_a_run_again_that_hung_after_an_hour(pretend, code, seconds, requeued):
    pretend("srun", f"exit {code}")
    pretend("scontrol")
    env = {name: value for name, value in pretend.env.items() if name != "MOFM_VENV"}
    assert run("slurm.sbatch", *TRAIN, env=env, SLURM_JOB_ID="7", SECONDS=seconds).returncode == code
    assert ("scontrol requeue 7" in pretend.calls()) is requeued


def test_slurm_dry(pretend):
    pretend("srun")
    done = run("slurm.sbatch", "--config", "c.py", env=pretend.env, DRY_RUN="1")
    assert done.returncode == 0
    assert "#SBATCH --signal=B:USR1@180" in done.stdout
    assert done.stdout.endswith("srun --kill-on-bad-exit=1 mofm train --distributed --config c.py\n")
    assert pretend.calls() == []


# Cloud TPUs

POD = ["--name", "pod", "--zone", "z1", "--type", "v5litepod-256", "--share", "10.0.0.2:/m", "--spot", "--", *TRAIN]

GCLOUD = """
case "$*" in
  *"queued-resources describe"*) line=$(head -n1 {states}); sed -i 1d {states}; [ "$line" = none ] || echo "$line" ;;
  *"mofm train --distributed --quiet"*) line=$(head -n1 {codes}); sed -i 1d {codes}; exit "$line" ;;
esac
"""


@pytest.fixture
def tpu(pretend):
    """A function (states that the queue will tell, codes that training will end with) -> (script, what was called)."""

    def go(states: list[str], codes: list[int], *options: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        files = {name: pretend.folder / name for name in ("states", "codes")}
        files["states"].write_text("\n".join(states) + "\n")
        files["codes"].write_text("\n".join(map(str, codes)) + "\n")
        pretend("gcloud", GCLOUD.format(**files))
        pretend("git")
        done = run("tpu_pod.sh", *options, *POD, env=pretend.env, POLL="0")
        assert files["states"].read_text().strip() == "", "the queue was asked less often than expected"
        short = re.compile(r"gcloud compute tpus (queued-resources|tpu-vm) (\w+)")
        return done, [" ".join(found.groups()) for line in pretend.calls() if (found := short.match(line))]

    return go


MADE = "queued-resources create"
LOOK = "queued-resources describe"
GONE = "queued-resources delete"
SETUP = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]  # code, share, installation
WORK = ["tpu-vm ssh", "tpu-vm ssh"]  # a run of before is ended, training


def test_a_pod_is_queued_for_set_up_trained_on_and_deleted(tpu, pretend):
    done, called = tpu(["none", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "ACTIVE"], [0])
    assert done.returncode == 0, done.stderr
    assert called == [LOOK, MADE, LOOK, LOOK, LOOK, *SETUP, *WORK, LOOK, GONE]
    made = next(line for line in pretend.calls() if MADE in line)
    for option in ("pod-queued", "--node-id pod", "--accelerator-type v5litepod-256", "--spot", "v2-alpha-tpuv5-lite"):
        assert option in made
    trained = next(line for line in pretend.calls() if "mofm train --distributed --quiet" in line)
    assert "--worker=all" in trained
    assert r"--config configs/base.py --workdir runs/a\ b" in trained  # quoted for the other shell


def test_after_a_preemption_it_queues_again_and_goes_on(tpu):
    states = ["ACTIVE", "SUSPENDING", "SUSPENDING", "SUSPENDED", "none", "ACTIVE", "ACTIVE"]
    done, called = tpu(states, [255, 0])
    assert done.returncode == 0, done.stderr
    first, again = [LOOK, *SETUP, *WORK, LOOK], [LOOK, LOOK, GONE, LOOK, MADE, LOOK, *SETUP, *WORK, LOOK, GONE]
    assert called == first + again
    assert "was preempted; queueing again" in done.stderr


def test_a_failure_that_is_no_preemption_is_tried_three_times(tpu):
    done, called = tpu(["ACTIVE"] * 6, [1, 1, 1])
    assert done.returncode == 1
    assert called == [LOOK, *SETUP, *WORK, LOOK] + 2 * [LOOK, *WORK, LOOK]
    assert "failed 3 times" in done.stderr
    assert "costs" in done.stderr


def test_a_pod_can_be_kept(tpu):
    _, called = tpu(["ACTIVE", "ACTIVE"], [0], "--keep")
    assert GONE not in called


def test_a_pod_dry(pretend):
    pretend("gcloud")
    pretend("git")
    done = run("tpu_pod.sh", *POD, env=pretend.env, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert pretend.calls() == []
    order = ["queued-resources create", "git archive", "tpu-vm scp", "nfs", "pip install", "mofm train", "delete"]
    places = [re.search(words.replace(" ", r"\\? "), done.stderr).start() for words in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "pod", "--", "x"], "--name, --zone and --type are needed"),
        ([*POD[:4], "--type", "v2-8", "--", "x"], "no runtime is known for v2-8"),
        (POD[: POD.index("--")], "nothing to train"),
        (["--nane", "pod"], "unknown option --nane"),
        (["--name"], "--name wants a value"),
    ],
)
def test_a_pod_that_is_asked_for_wrongly(pretend, arguments, words):
    done = run("tpu_pod.sh", *arguments, env=pretend.env, DRY_RUN="1")
    assert done.returncode == 2
    assert words in done.stderr


# Kubernetes


@pytest.fixture(scope="module")
def jobset():
    """The JobSet as `envsubst` would write it."""
    values = {"NAME": "pod", "IMAGE": "i", "CORPUS": "gs://b/c", "NFS_SERVER": "10.0.0.2", "NFS_PATH": "/m"}
    text = string.Template((LAUNCH / "gke_jobset.yaml").read_text()).substitute(values)
    return yaml.safe_load(text)


def test_the_jobset_has_what_its_api_requires(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = jobset["spec"]["replicatedJobs"]
    assert {"name", "replicas", "template"} <= set(job)
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a Job takes no other with backoffLimit 0 that keeps hosts together
    (container,) = pod["containers"]
    assert {"name", "image", "command", "resources"} <= set(container)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_jobset_has_a_pod_for_every_host_of_the_slice(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    chips = resources["limits"]["google.com/tpu"]
    assert resources["requests"]["google.com/tpu"] == chips
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert job["parallelism"] == job["completions"] == rows * columns // chips
    assert job["backoffLimit"] == 0


def test_the_jobset_trains_a_config_that_there_is(jobset, capsys):
    container = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    words = container["command"] + container["args"]
    assert words[:2] == ["mofm", "train"]
    assert int(words[words.index("--stopped-code") + 1]) > 0  # a pod that ends with 0 would count as done
    options = dict(word.removeprefix("--").split("=", 1) for word in container["args"])
    overrides = [f"{name.removeprefix('config.')}={value}" for name, value in options.items() if "config." in name]
    assert load_config(ROOT / options["config"], overrides).data.corpus == "gs://b/c"


def test_the_queue_is_the_one_that_the_jobset_waits_in_and_holds_it(jobset):
    documents = {one["kind"]: one for one in yaml.safe_load_all((LAUNCH / "gke_queue.yaml").read_text())}
    assert {one["apiVersion"] for one in documents.values()} == {"kueue.x-k8s.io/v1beta1"}
    local, cluster, flavor = (documents[kind] for kind in ("LocalQueue", "ClusterQueue", "ResourceFlavor"))
    assert jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]
    (group,) = cluster["spec"]["resourceGroups"]
    (offered,) = group["flavors"]
    assert offered["name"] == flavor["metadata"]["name"]
    assert [one["name"] for one in offered["resources"]] == group["coveredResources"] == ["google.com/tpu"]
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    selector = job["template"]["spec"]["nodeSelector"]
    assert flavor["spec"]["nodeLabels"] == selector
    chips = job["parallelism"] * job["template"]["spec"]["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert offered["resources"][0]["nominalQuota"] == chips


# The image


def test_the_image_copies_what_there_is_and_its_extras_exist():
    text = (LAUNCH / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    extras = re.findall(r"extra='\[(\w+)\]'", text)
    assert sorted(extras) == ["cuda", "tpu"]
    setup = (ROOT / "setup.py").read_text()
    assert all(f'"{extra}": [' in setup for extra in extras)
    assert re.search(r"^FROM \S+:\S+$", text, re.M)
    assert re.search(r"^ARG ACCELERATOR=gpu$", text, re.M)
    assert 'ENTRYPOINT ["mofm"]' in text
