"""Settings of Sphinx for the site of the documents, which ``docs/build`` makes."""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from generated import fill  # noqa: E402  (it is in this folder)

project = "hcam_devices"
html_title = f"HiPERCAM {version_of(project)}"
language = "en"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 70
add_module_names = False
exclude_patterns = ["build", "decisions/0*"]
html_theme = "furo"
html_favicon = "pictures/icon.svg"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
man_pages = [("reference/commands", "hcam", "HiPERCAM's instrument control", "", "1")]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

DECISION = re.compile(r"\]\([./\w]*?(\d{4})-[^)]*\)")
"""A link to a decision."""


class Chart(SphinxDirective):
    """A state chart as a table: GitHub draws it, which needs a script."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a row for each state: the commands, and what happens by itself."""
        leads: dict[str, tuple[list[str], list[str]]] = {}
        for line in self.content:
            if not (found := re.fullmatch(r" *(\w+) --> (\w+): (.*)", line)):
                continue
            state, after, events = found.groups()
            commands, others = leads.setdefault(state, ([], []))
            for event in re.findall(r"\([^)]*\)|[^,() ]+", events):
                name = event.strip("()")
                (others if name != event else commands).append(
                    f"`{name}`\N{NO-BREAK SPACE}→ {after}"
                )
        rows = ["| state | commands | by itself |", "|---|---|---|"]
        rows += [
            f"| **{state}** | {', '.join(commands)} | {', '.join(others)} |"
            for state, (commands, others) in leads.items()
        ]
        node = nodes.Element()
        self.state.nested_parse(rows, 0, node)
        return [*node.children]


def complete(app: Sphinx, name: str, source: list[str]) -> None:
    """Add what is generated, and the decisions of a subject; let links lead to decisions."""
    text = fill(source[0])
    if name.startswith("decisions/"):
        for number in DECISION.findall(text):
            (file,) = HERE.glob(f"decisions/{number}-*.md")
            decision = file.read_text().replace("# ", f"## {number}: ", 1)
            text += f"\n(decision-{number})=\n{decision}"
    source[0] = DECISION.sub(r"](#decision-\1)", text)


def draw_inline(app: Sphinx, page: nodes.document) -> None:
    """Put drawings into the page itself, where they have its colours."""
    if app.builder.format != "html":
        return
    for image in [*page.findall(nodes.image)]:
        if image["uri"].endswith(".svg"):
            text = (HERE / image["uri"]).read_text()
            image.replace_self(nodes.raw("", f'<div class="drawing">{text}</div>', format="html"))


def setup(app: Sphinx) -> None:
    """Register what the pages need beside MyST."""
    app.add_directive("mermaid", Chart)
    app.connect("source-read", complete)
    app.connect("doctree-read", draw_inline)
