"""The command ``workbench``: parses little, checks early, and imports torch only for the verbs that compute with it."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from workbench import __version__
from workbench.errors import InputError

VERBS = {
    "fit": "train an experiment",
    "validate": "loss of a trained model on the validation split",
    "test": "loss of a trained model on the test split",
    "predict": "forecast from every start of the test split, or from a file: predict WEIGHTS INPUT -o OUTPUT; or lives",
    "rollout": "forecast many steps from the starts that the experiment names",
    "evaluate": "score the rollout against truth and baselines",
    "speedup": "what the solver of the record takes at the surrogate's error",
    "report": "write report.html",
    "pipeline": "dataset, fit, rollout (or predict), evaluate and report in one go",
    "sweep": "how well the life of cells is predicted from more and more of their first cycles",
    "submit": "the same on a cluster: one job a stage, on the nodes that it needs",
    "jobs": "how far submitted jobs are",
    "cancel": "end submitted jobs",
    "baselines": "score persistence, climatology and friends alone, before any training",
    "check": "look at an experiment without training: data, windows, chunks, memory, one batch",
    "dataset": "build, list, inspect and verify datasets",
    "plan": "memory of a training by strategy, and how to spread it over GPUs; nothing is run",
    "scale": "weak and strong scaling of a training: measured here, modelled beyond",
    "export": "write one self-describing safetensors file from a checkpoint",
}
MODULES = {
    "fit": "commands.train",
    "validate": "commands.train",
    "test": "commands.train",
    "evaluate": "evaluate",
    "report": "report",
    "jobs": "commands.jobs",
    "cancel": "commands.jobs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 2 wrong input, 130 interrupted."""
    # Idle OpenMP threads must sleep, not spin: beside reading threads or other users of the machine, a training step
    # of an FNO on two cores took 3.9 s with spinning threads and 0.15 s with sleeping ones.
    os.environ.setdefault("GOMP_SPINCOUNT", "100")
    if sys.__stderr__ and not faulthandler.is_enabled():  # logs of jobs name the place where a library has crashed
        faulthandler.enable(sys.__stderr__)
    # An experiment may name a network of its own folder; searched last, so that nothing there shadows a package.
    sys.path.append(os.getcwd())
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"workbench {__version__}")
        return 0
    try:
        return verb(words[0])(words[1:])
    except InputError as error:
        print(f"workbench {words[0]}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"workbench {words[0]}: interrupted; what was finished is kept", file=sys.stderr)
        return 130


def overview() -> str:
    """What ``workbench --help`` prints."""
    from workbench.resources import experiment_names

    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, text in VERBS.items())
    return (
        "usage: workbench VERB -c EXPERIMENT [--section.key=value ...]\n\n"
        "Trustworthy neural surrogates and forecasts: xarray in, xarray out.\n\n"
        f"verbs (workbench VERB --help says more):\n{verbs}\n\n"
        f"packaged experiments: {', '.join(experiment_names())}\n\n"
        "A first run:\n  workbench pipeline -c kolmogorov/fno"
    )


def verb(name: str) -> Callable[[list[str]], int]:
    """The function behind a verb; its module is imported only now, so that most verbs never see torch.

    Raises:
        InputError: there is no such verb.
    """
    if name not in VERBS:
        near = get_close_matches(name, VERBS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"the verbs are {', '.join(VERBS)}"
        raise InputError(f"unknown verb '{name}': {hint}")
    module = importlib.import_module("workbench." + MODULES.get(name, f"commands.{name}"))
    return module.main if hasattr(module, "main") else getattr(module, name)
