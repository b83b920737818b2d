"""Write an output folder's tables and figures as one self-contained HTML page: `python -m analysis.report OUTPUTS [--output FILE]`."""

import argparse
import base64
import html
import io
import sys

import matplotlib.pyplot as plt
import pandas as pd

from analysis.aggregate import aggregate
from analysis.figures import CAPTIONS, figures
from analysis.records import folder_of, load
from analysis.render import model_label, render, task_label
from analysis.tables import TABLES, notes
from kprune.errors import command
from kprune.files import reachable, write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111; max-width: 1200px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin: 2.2em 0 .4em; border-bottom: 1px solid #bbb; }
nav a { margin-right: 1em; } p { max-width: 75ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; border-block: 2px solid #111; }
th { text-align: left; border-bottom: 1px solid #111; } th, td { padding: .25em .8em .25em 0; white-space: nowrap; }
tbody tr:nth-child(even) { background: #f4f4f4; }
figure { margin: 1em 0; } figure img { max-width: 100%; height: auto; } figcaption { font-size: 13px; color: #444; }
"""


def page(cells: pd.DataFrame, source: str) -> str:
    """Return an HTML page of all tables and figures, which refers to no other file.

    Args:
        cells: rows of `analysis.records`.
        source: where they come from, for the heading.

    Raises:
        UserError: as of `aggregate`.
    """
    table = aggregate(cells)
    sections = []
    for name, entry in TABLES.items():
        shown = entry.make(table)
        if not shown.empty:
            body = f'<p>{html.escape(entry.note)}</p>\n<div class="wide">{render(shown, "html")}</div>'
            sections.append((f"table-{name}", entry.title, body))
    for name, figure in figures(cells):
        drawing = io.BytesIO()
        figure.savefig(drawing, format="png", dpi=130)
        plt.close(figure)
        image = base64.b64encode(drawing.getvalue()).decode()
        title = caption(name)
        body = f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{image}"></figure>'
        sections.append((f"figure-{name}", title, body))
    links = "\n".join(f'<a href="#{anchor}">{html.escape(title)}</a>' for anchor, title, _ in sections)
    bodies = "\n".join(f'<h2 id="{anchor}">{html.escape(title)}</h2>\n{body}' for anchor, title, body in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>kprune: {html.escape(source)}</title><style>{STYLE}</style></head>
<body>
<h1>kprune: {len(cells)} cells of {html.escape(source)}</h1>
<p>{html.escape(notes(cells))}</p>
<nav>{links}</nav>
{bodies}
</body>
</html>
"""


def caption(name: str) -> str:
    """Return "Heads and neurons kept per layer, MRPC, MiniLM-L6" for kept_units-mrpc-minilm."""
    kind, *rest = name.split("-")
    return ", ".join([CAPTIONS[kind], *(model_label(task_label(part)) for part in rest)])


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__.split(":")[0])
    parser.add_argument("source", type=reachable, help="output folder of run.py, or CSV file of analysis.collect")
    parser.add_argument("--output", type=reachable, help="file to write; default: report.html beside or in the source")
    arguments = parser.parse_args()
    cells = load(arguments.source)
    file = arguments.output or folder_of(arguments.source) / "report.html"
    write_text(file, page(cells, str(arguments.source)))
    print(f"report: {file}")


if __name__ == "__main__":
    sys.exit(main())
