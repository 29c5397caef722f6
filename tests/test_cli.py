import subprocess
import sys
import textwrap

import pytest

from workbench import cli
from workbench.errors import InputError


def test_help_names_every_verb_and_experiment(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in cli.VERBS) and "kolmogorov/fno" in text


def test_every_verb_teaches_without_torch():
    """Each verb's --help runs, and only fit --help-all may import torch."""
    code = textwrap.dedent(
        """
        import contextlib, io, sys
        from workbench import cli
        for verb in cli.VERBS:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                try:
                    cli.verb(verb)(["--help"])
                except SystemExit as stop:
                    assert stop.code == 0, verb
            text = out.getvalue()
            assert "workbench " + verb in text and len(text.splitlines()) > 8, (verb, text)
        print([m for m in ("torch", "pytorch_lightning") if m in sys.modules])
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_wrong_input_is_one_line_and_status_two(capsys):
    assert cli.main(["evalaute"]) == 2
    error = capsys.readouterr().err
    assert error == "workbench evalaute: unknown verb 'evalaute': did you mean 'evaluate'?\n"


def test_an_unknown_verb_far_from_all_lists_them():
    with pytest.raises(InputError, match="unknown verb 'xyzzy': the verbs are fit, validate"):
        cli.verb("xyzzy")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("workbench ")
