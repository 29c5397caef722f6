"""What `workbench pipeline` decides to do."""

from workbench import experiment as experiments
from workbench.stages import plan


def test_the_record_and_what_it_is_compared_with_are_built_first(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    experiment = experiments.load(["channel/fno_mfu"], [], tmp_path / "run")
    stages = list(plan(experiment, overwrite=False))
    records = ["mfu180", "mfu180_wale", "mfu180_dynamic_smagorinsky"]
    assert stages[:3] == [f"dataset channel_flow/{record}" for record in records]
    assert stages[3:] == ["fit", "rollout", "evaluate", "report"]
