import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from workbench import experiment as experiments
from workbench.errors import InputError
from workbench.lifetime_experiment import either
from workbench.resources import experiment_names, find_experiment

BASE = """
data: {record: kolmogorov_flow/tiny, state: [vorticity], split: {by: trajectory, train: [0, 0.5]}}
model: {class_path: ForecastTask, init_args: {network: {class_path: FNO, init_args: {width: 8}}, residual: true}}
trainer: {max_epochs: 3}
"""


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(BASE)
    return str(path)


def test_files_stack_and_overrides_win(file, tmp_path):
    (tmp_path / "more.yaml").write_text("data: {batch_size: 4, split: {gap: 3}}\ntrainer: {max_epochs: 9}\n")
    found = experiments.load([file, str(tmp_path / "more.yaml")], ["--data.batch_size=6", "--rollout.steps", "7"])
    assert (found.data.batch_size, found.data.split.gap, found.data.split.train) == (6, 3, (0, 0.5))
    assert found.rollout.steps == 7 and found.config["trainer"]["max_epochs"] == 9
    assert found.name == "mine" and found.run_dir == Path("runs/mine")


def test_a_new_class_path_does_not_inherit_arguments():
    base = {"class_path": "A", "init_args": {"x": 1}}
    assert experiments.merge(base, {"class_path": "B"}) == {"class_path": "B"}
    assert experiments.merge(base, {"init_args": {"y": 2}}) == {"class_path": "A", "init_args": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--data.batchsize=3", r"unknown key 'data.batchsize': did you mean 'batch_size'\?"),
        ("--trainer.max_epoch=3", r"unknown key 'trainer.max_epoch': did you mean 'max_epochs'\?"),
        ("--model.init_args.residul=true", r"unknown key 'model.init_args.residul': did you mean 'residual'\?"),
        ("--model.init_args.network.init_args.widht=3", r"network.init_args.widht': did you mean 'width'\?"),
        ("--model.init_args.network.init_args.in_channels=3", "in_channels"),
        ("--data.split.tran=[0, 1]", r"unknown key 'data.split.tran': did you mean 'train'\?"),
        ("--modle=3", r"unknown key 'modle': did you mean 'model'\?"),
        ("--data.batch_size=many", "section 'data' has a wrong value: .*batch_size"),
        ("--data.batch_size=0", "data.batch_size is 0: expected at least 1"),
        ("--rollout.members=4", "rollout.members is 4 with rollout.perturbation 0.0"),
        ("--data", "--data has no value"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_nearest(file, override, message):
    with pytest.raises(InputError, match=message):
        experiments.load([file], [override])


def test_a_stray_word_is_refused(file):
    with pytest.raises(InputError, match="'batch' is not expected here"):
        experiments.load([file], ["batch"])


def test_files_that_are_no_experiments_are_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "broken.yaml").write_text("data: {record: [")
    with pytest.raises(InputError, match="holds list, expected a mapping"):
        experiments.load([str(tmp_path / "list.yaml")])
    with pytest.raises(InputError, match="is not valid YAML"):
        experiments.load([str(tmp_path / "broken.yaml")])
    with pytest.raises(InputError, match="no experiment 'kolmogorov/fnoo'.*nearest: kolmogorov/fno"):
        experiments.load(["kolmogorov/fnoo"])
    with pytest.raises(InputError, match="no experiment given"):
        experiments.load([])


@pytest.mark.parametrize("name", experiment_names())
def test_packaged_experiments_are_short_commented_and_right(name):
    text = find_experiment(name).read_text()
    assert len(text.splitlines()) <= 40
    assert text.startswith("#")
    found = either([name])
    assert found.name == name
    assert set(yaml.safe_load(text)) >= {"data", "model", "trainer"}


def test_an_experiment_is_read_without_torch():
    """The verbs of a login node start at once because nothing on their way imports torch."""
    code = textwrap.dedent(
        """
        import sys
        import workbench.cli, workbench.experiment, workbench.header, workbench.evaluate, workbench.baselines
        import workbench.report, workbench.commands.dataset, workbench.commands.check, workbench.data.preflight
        from workbench import experiment
        experiment.load(["kolmogorov/fno"])
        print([m for m in ("torch", "pytorch_lightning") if m in sys.modules])
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
