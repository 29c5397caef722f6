"""A directive that shows what ``workbench VERB --help`` prints, so that the page cannot fall behind the command."""

import contextlib
import io

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from workbench import cli


class VerbHelp(SphinxDirective):
    """``{verb-help} fit``: the help text of one verb; without an argument, that of the command."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = help_of(self.arguments[0]) if self.arguments else cli.overview()
        return [nodes.literal_block(text, text, language="text")]


def help_of(verb: str) -> str:
    """What ``workbench VERB --help`` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.verb(verb)(["--help"])
    return out.getvalue().rstrip()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("verb-help", VerbHelp)
    return {"parallel_read_safe": True}
