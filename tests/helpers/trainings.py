"""Small trainings that kill themselves where a test wants it, and say which samples they saw."""

import csv
import json
import textwrap

import torch
from project import EXPERIMENT, waves

HELPERS = '''
import json, os, signal, time
import pytorch_lightning as pl
from workbench.cluster import pulse
from workbench.data import loader

if "PERIOD" in os.environ:  # 0: the ranks talk after every batch, however short
    pulse.PERIOD = float(os.environ["PERIOD"])

class Kill(pl.Callback):
    """Sends this process a signal at its nth batch; the environment says which, where, on which rank, and what."""
    def __init__(self):
        self.batch, self.where, self.rank, *given = json.loads(os.environ.get("KILL", "[0, 0, 0]"))
        self.signal = given[0] if given else signal.SIGKILL
        self.count = 0
    def at(self, trainer, where):
        self.count += where == "start"
        if self.batch == self.count and self.where == where and self.rank in (-1, trainer.global_rank):
            os.kill(os.getpid(), self.signal)
    def on_train_batch_start(self, trainer, *_):
        self.at(trainer, "start")
    def on_after_backward(self, trainer, *_):
        self.at(trainer, "backward")
    def on_before_optimizer_step(self, trainer, *_):
        self.at(trainer, "step")
    def on_train_batch_end(self, trainer, *_):
        self.at(trainer, "end")
        if os.environ.get("FAIL") == str(trainer.global_rank) and self.count == 3:
            raise ValueError(f"a failure of rank {trainer.global_rank}")

class Lag(pl.Callback):
    """A forward pass takes 10 ms, and that of one rank longer from a batch on: [rank, batch, seconds].

    On a clock that nothing else moves; the other ranks wait for the slow one in the backward pass.
    """
    now, count, rest = 0.0, 0, 0.0
    def __init__(self):
        self.late = json.loads(os.environ.get("LAG", "null"))
        if self.late:
            pulse.time = loader.time = self
    def perf_counter(self):
        return self.now
    def on_before_backward(self, trainer, *_):
        if self.late:
            rank, batch, seconds = self.late
            self.count += 1
            step = seconds if self.count > batch else 0.01
            own = step if trainer.global_rank == rank else 0.01
            self.now, self.rest = self.now + own, step - own
    def on_after_backward(self, *_):
        self.now += self.rest

class Seen(pl.Callback):
    """Writes down which samples came, in which step, and takes its time."""
    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        with open(f"{trainer.default_root_dir}/seen{trainer.global_rank}.jsonl", "a") as file:
            print(json.dumps([trainer.global_step, trainer.current_epoch, batch["index"].tolist()]), file=file)
'''
TRAINER = """
trainer:
  max_epochs: 3
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  accumulate_grad_batches: ACCUMULATE
  callbacks:
    - {class_path: helpers.Kill}
    - {class_path: helpers.Lag}
    - {class_path: helpers.Seen}
    - {class_path: EMAWeightAveraging, init_args: {decay: 0.9}}
    - class_path: ModelCheckpoint
      init_args: {DUE, filename: last, dirpath: DIR/checkpoints, enable_version_counter: false}
"""


class Trainings:
    """Undisturbed and disturbed runs of one project."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        waves(trajectories=6).to_netcdf(folder / "waves.nc")
        (folder / "helpers.py").write_text(HELPERS)
        self._whole = {}

    def write(self, run_dir, accumulate=2, due="every_n_train_steps: 2"):
        """The experiment file of a run."""
        text = textwrap.dedent(EXPERIMENT).partition("trainer:")[0].replace("network:", "noise: 0.05\n    network:", 1)
        text += TRAINER.replace("DIR", run_dir).replace("ACCUMULATE", str(accumulate)).replace("DUE", due)
        file = self.folder / "files" / run_dir / "waves.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def run(self, run_dir, *words, ranks=1, accumulate=2, kill=None, due="every_n_train_steps: 2", **options):
        file = self.write(run_dir, accumulate, due)
        options |= {"KILL": json.dumps(kill)} if kill else {}
        options["WORKBENCH_DATA"] = str(self.folder / "data")
        words = ("fit", "-c", str(file), "--run-dir", run_dir, *words)
        return self.server.run(self.folder, *words, ranks=ranks, **options)

    def whole(self, ranks, accumulate):
        """The end of the undisturbed run."""
        if (ranks, accumulate) not in self._whole:
            run_dir = f"whole{ranks}{accumulate}"
            statuses, out, _ = self.run(run_dir, ranks=ranks, accumulate=accumulate)
            assert statuses == [0] * ranks, out
            self._whole[ranks, accumulate] = self.end(run_dir)
        return self._whole[ranks, accumulate]

    def end(self, run_dir):
        checkpoint = torch.load(self.folder / run_dir / "checkpoints" / "last.ckpt", weights_only=True)
        with open(self.folder / run_dir / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return checkpoint, rows

    def seen(self, run_dir, ranks):
        """Per rank, what came: step, epoch, samples."""
        files = [self.folder / run_dir / f"seen{rank}.jsonl" for rank in range(ranks)]
        found = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        for file in files:
            file.unlink()
        return found


def differences(a, b, where=""):
    """Paths of what differs between two checkpoints, paths and scores of checkpoint callbacks left out."""
    if isinstance(a, dict):
        a, b = ({k: v for k, v in x.items() if not str(k).startswith("ModelCheckpoint")} for x in (a, b))
        if a.keys() != b.keys():
            return [f"{where}: {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [d for k in a for d in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]
