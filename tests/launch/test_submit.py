"""submit, jobs and cancel with programs of PBS that record how they are called, and on one machine without any."""

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from workbench import cli
from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.launch.chain import Request, chain
from workbench.launch.ledger import Ledger, states
from workbench.launch.script import Paths, render
from workbench.launch.site import read_site
from workbench.lifetime_experiment import load_lifetimes

QSUB = """#!/bin/sh
echo "qsub $*" >> {log}
[ "$(grep -c ^qsub {log})" -le "$(cat {folder}/limit)" ] || {{ echo "qsub: would exceed limit" >&2; exit 38; }}
echo "$(grep -c ^qsub {log}).pbs01"
"""
QSTAT = """#!/bin/sh
for job; do :; done
[ -e "{folder}/queue/$job" ] || {{ echo "qstat: Unknown Job Id $job" >&2; exit 153; }}
state=$(cat "{folder}/queue/$job")
printf '{{"Jobs": {{"%s": {{"job_state": "%s", "comment": "Not Running: queue is full"}}}}}}' "$job" "$state"
"""
QDEL = """#!/bin/sh
echo "qdel $*" >> {log}
"""


@pytest.fixture
def pbs(project, monkeypatch):
    """A PBS that takes jobs and runs none; `pbs()` is what it was asked, `queue/NUMBER` the state of a job."""
    programs, log = project / "programs", project / "calls"
    (project / "queue").mkdir()
    (project / "limit").write_text("99")
    programs.mkdir()
    for name, text in (("qsub", QSUB), ("qstat", QSTAT), ("qdel", QDEL)):
        file = programs / name
        file.write_text(text.format(log=log, folder=project))
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (project / "site.yaml").write_text("{title: a PBS, scheduler: pbs, visible: [/], cpu: {cores: 8}}")
    return lambda: log.read_text().splitlines() if log.exists() else []


def submit(*words):
    return cli.main(["submit", "-c", "waves.yaml", "--site", "site.yaml", "--shares", "2", *words])


def test_lives_of_cells_are_predicted_where_others_are_rolled_out(project):
    experiment = load_lifetimes(["battery/fpnn"], ["--data.record=cells.zarr"])
    jobs, done = chain(experiment, read_site("perlmutter"), Request(configs=("battery/fpnn",)))
    assert [job.name for job in jobs] == ["fit", "predict", "evaluate", "report"] and not done
    assert jobs[0].ranks == 1 and jobs[1].kind == "cpu"
    with pytest.raises(InputError, match="--stage evaluate needs runs/battery/fpnn/predictions.nc, .* --stage predict"):
        chain(experiment, read_site("slurm"), Request("evaluate", configs=("battery/fpnn",)))


def test_a_chain_waits_job_for_job(pbs, project, capsys):
    assert submit() == 0
    folder = project / "runs/waves/launch"
    names = ("fit", "rollout", "rollout-finish", "evaluate", "report")
    waits = ["", *(f"-W depend=afterok:{k}.pbs01 " for k in range(1, 5))]
    assert pbs() == [f"qsub {wait}{folder}/{name}.sh" for wait, name in zip(waits, names, strict=True)]
    assert "#PBS -J 1-2" in (folder / "rollout.sh").read_text()
    (project / "queue/1.pbs01").write_text("R")
    capsys.readouterr()
    assert submit() == 2, "a chain that still runs is not submitted again"
    assert "fit (1.pbs01)" in capsys.readouterr().err
    assert cli.main(["cancel", "-c", "waves.yaml"]) == 0
    assert pbs()[-1] == "qdel 1.pbs01"


def test_a_dry_run_prints_what_would_be_submitted_and_touches_nothing(pbs, project, capsys):
    assert submit("--dry-run", "--nodes", "2") == 0
    printed = capsys.readouterr().out
    assert pbs() == [] and not (project / "runs").exists()
    assert submit("--nodes", "2") == 0
    for job in ("fit", "rollout-finish", "report"):
        assert (project / f"runs/waves/launch/{job}.sh").read_text() in printed
    assert f"$ qsub -W depend=afterok:FIT {project}/runs/waves/launch/rollout.sh" in printed


def test_what_the_scheduler_says_reaches_the_user(pbs, project, capsys):
    """Refused at the third job: the two before it are there, and can be cancelled."""
    (project / "limit").write_text("2")
    assert submit() == 2
    error = capsys.readouterr().err
    assert "qsub refused" in error and "would exceed limit" in error and "fit, rollout" in error
    for number in (1, 2):
        (project / f"queue/{number}.pbs01").write_text("Q")
    assert cli.main(["cancel", "-c", "waves.yaml"]) == 0
    assert pbs()[-1] == "qdel 2.pbs01 1.pbs01"


@pytest.mark.parametrize(
    "site, words, expected",
    [
        ("needs_account: true", [], "no account"),
        ("cpu: {cores: 8, max_time: '2:00:00'}", ["--time=3:00:00"], "fit: 03:00:00 is longer .* \\(02:00:00\\)"),
        ("cpu: {cores: 8, partition: main, max_nodes: 4}", ["--nodes=5"], "5 nodes are more than the partition main"),
        ("cpu: {cores: 8}", ["--ranks=9"], "9 ranks on nodes of 8 cores"),
        ("gpu: {cores: 8, gpus: 4}", ["--ranks=5"], "5 ranks on nodes of 4 GPUs"),
        ("cpu: {cores: 8}", ["--time=2:00"], "not longer than the notice"),
        ("cpu: {cores: 8}", ["--time=soon"], "'soon' is no walltime"),
        ("cpu: {cores: 8}", ["--shares=0"], "--shares is 0: expected at least 1"),
        ("cpu: {cores: 8}", ["--stage=evaluate"], "needs runs/waves/rollout.zarr"),
        ("visible: [/lustre]", [], "the working directory lies in .* no compute node finds it: move it to /lustre"),
        ("cpu: {cores: 8}", ["--data.batch_szie=4"], "did you mean 'batch_size'"),
        ("cpu: {cores: 8}", ["--rollout.steps=500"], "500"),
        ("cpu: {cores: 8}", ["--data.state=[heigth]"], "heigth"),
    ],
)
def test_what_would_fail_in_the_queue_is_refused(pbs, project, capsys, site, words, expected):
    plain = {"visible": "visible: [/]"} | {site.partition(":")[0]: site}
    (project / "site.yaml").write_text("\n".join(["title: a PBS", "scheduler: pbs", *plain.values()]))
    assert submit(*words) == 2
    assert re.search(expected, error := capsys.readouterr().err), error
    assert pbs() == [] and not (project / "runs").exists()


def test_states_come_from_the_jobs_own_notes_and_the_queue(pbs, project, capsys):
    submit()
    paths = Paths(Path("runs/waves"))
    folder = paths.folder

    def note(name, *lines):
        (folder / name).write_text("".join(f"{line} node\n" for line in lines))

    def found():
        return {s.entry.name: (s.counts, s.attempts) for s in states(Ledger.read(paths), paths)}

    assert found()["fit"] == ({"never began": 1}, 0)
    for number in range(1, 6):
        (project / f"queue/{number}.pbs01").write_text("Q" if number == 1 else "H")
    assert all(counts == {"waiting": counts.get("waiting")} for counts, _ in found().values())
    note("fit.attempts", "began T 1", "75 T 1", "began T 1")
    (project / "queue/1.pbs01").write_text("R")
    assert found()["fit"] == ({"running": 1}, 2)
    note("fit.attempts", "began T 1", "75 T 1")
    (project / "queue/1.pbs01").unlink()
    assert found()["fit"] == ({"stopped with status 75": 1}, 1)
    (project / "queue/1.pbs01").write_text("R")
    note("fit.attempts", "began T 1", "75 T 1", "began T 1", "0 T 1")
    (project / "queue/1.pbs01").unlink()
    note("rollout.attempts.1", "began T 0", "0 T 0", "began T 2", "1 T 2")
    note("rollout.attempts.2", "began T 2")
    (project / "queue/2.pbs01").write_text("B")
    assert found()["fit"] == ({"done": 1}, 2)
    assert found()["rollout"] == ({"failed with status 1": 1, "running": 1}, 2)
    (project / "queue/2.pbs01").unlink()
    assert found()["rollout"] == ({"failed with status 1": 1, "killed": 1}, 2)
    capsys.readouterr()
    assert cli.main(["jobs", "-c", "waves.yaml"]) == 1
    assert f"{folder}/rollout" in capsys.readouterr().out, "where to look for the reason"
    assert cli.main(["jobs", "--run-dir", "runs/waves", "--json"]) == 1
    assert [job["entry"]["name"] for job in json.loads(capsys.readouterr().out)][0] == "fit"


def test_jobs_of_a_run_without_any(project, capsys):
    assert cli.main(["jobs", "-c", "waves.yaml"]) == 2
    assert "no jobs were submitted for runs/waves" in capsys.readouterr().err


def test_ranks_of_mpiexec_are_told_who_they_are(pbs, project, capsys):
    """The script's own shell, with an mpiexec that starts ranks one after the other, and one that asks to be rerun."""
    submit("--nodes", "2", "--ranks", "2", "--stage", "fit")
    programs = project / "programs"
    programs.joinpath("mpiexec").write_text(
        '#!/bin/bash\nshift 4\nfor r in 0 1 2 3; do PMI_RANK=$r PMI_LOCAL_RANK=$((r % 2)) "$@" || exit; done\n'
    )
    programs.joinpath("qrerun").write_text(f"#!/bin/sh\necho qrerun $* >> {project}/calls\n")
    programs.joinpath("training").write_text(
        "#!/bin/sh\necho $RANK $LOCAL_RANK $GROUP_RANK $WORLD_SIZE $MASTER_ADDR $*\nexit $STATUS\n"
    )
    for file in programs.iterdir():
        file.chmod(0o755)
    script = project / "runs/waves/launch/fit.sh"
    text = script.read_text()
    begin = text.index("on_every_rank ", text.index("note began"))
    script.write_text(text[:begin] + "on_every_rank training a 'b c'\n")
    (project / "nodes").write_text("dec1\ndec1\ndec2\ndec2\n")
    environment = {**os.environ, "PBS_JOBID": "7.pbs01", "PBS_NODEFILE": str(project / "nodes")}

    def run(status):
        return subprocess.run(["bash", script], env={**environment, "STATUS": status}, capture_output=True, text=True)

    done = run("0")
    assert done.stdout.splitlines() == [f"{r} {r % 2} {r // 2} 4 dec1 a b c" for r in range(4)], done.stderr
    assert run("75").returncode == 75 and pbs()[-1] == "qrerun 7.pbs01"
    assert run("1").returncode == 1 and pbs().count("qrerun 7.pbs01") == 1
    notes = [line.split()[::2] for line in (project / "runs/waves/launch/fit.attempts").read_text().splitlines()]
    assert notes == [["began", "7"], ["0", "7"], ["began", "7"], ["75", "7"], ["began", "7"], ["1", "7"]]


@pytest.mark.parametrize("scheduler", ["pbs", "slurm"])
def test_every_gpu_of_a_whole_node_rolls_out_a_share(pbs, project, scheduler):
    """Seven shares asked for on whole nodes of four GPUs: two jobs of four, no share twice and none left out."""
    site = f"{{title: x, scheduler: {scheduler}, visible: [/], gpu: {{cores: 8, gpus: 4, shared: false}}}}"
    (project / "site.yaml").write_text(site)
    request = Request("pipeline", shares=7, configs=("waves.yaml",))
    experiment = experiments.load(["waves.yaml"])
    job = next(j for j in chain(experiment, read_site("site.yaml"), request)[0] if j.name == "rollout")
    text = render(job, read_site("site.yaml"), Paths(experiment.run_dir))
    assert re.search({"pbs": "ngpus=4", "slurm": "--gpus-per-node=4"}[scheduler], text)
    assert re.search({"pbs": r"-J 1-2\n", "slurm": r"--array=1-2\n"}[scheduler], text)
    starter = project / "programs" / {"pbs": "mpiexec", "slurm": "srun"}[scheduler]
    skip = {"pbs": 4, "slurm": 1}[scheduler]
    loop = 'for r in 0 1 2 3; do PMI_RANK=$r SLURM_PROCID=$r "$@" || exit; done'
    starter.write_text(f"#!/bin/bash\nshift {skip}\n{loop}\n")
    starter.chmod(0o755)
    text = re.sub(r"share_by_share \S+ -m workbench .*", "share_by_share echo", text)
    Path("runs/waves/launch").mkdir(parents=True)
    shares = []
    for task in "12":
        variables = {"PBS_ARRAY_INDEX": task, "PBS_JOBID": "7[1].p", "SLURM_ARRAY_TASK_ID": task, "SLURM_JOB_ID": "7"}
        done = subprocess.run(["bash"], input=text, env={**os.environ, **variables}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        shares += done.stdout.split()
    assert shares == [word for k in range(1, 9) for word in ("--share", f"{k}/8")]


def test_one_machine_runs_the_chain_itself(project, capsys):
    """As it would run: the log beside the script, the status of the job that fails, its state."""
    words = ["submit", "-c", "waves.yaml", "--site", "local", "--shares", "2", "--stage", "report"]
    assert cli.main(words) == 2 and "needs runs/waves/scores.nc" in capsys.readouterr().err
    Path("runs/waves").mkdir(parents=True)
    Path("runs/waves/scores.nc").write_text("damaged")
    assert cli.main(words) == 2, "the status of the report"
    assert "failed with status 2" in capsys.readouterr().out
    assert "workbench report:" in Path("runs/waves/launch/report.out").read_text()
    assert cli.main(["jobs", "-c", "waves.yaml"]) == 1
    assert "failed with status 2" in capsys.readouterr().out
