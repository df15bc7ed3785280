"""Hooks of the documentation build: formulas as MathML, and the results page from the repository's own tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[1] / "results"
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.S | re.M)
DISPLAY, INLINE = re.compile(r"\$\$(.+?)\$\$", re.S), re.compile(r"(?<![\\$])\$([^$\n]+?)\$")
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds results/README.md as the page results.md, and the figures and tables that it links to."""
    text = (RESULTS / "README.md").read_text("utf-8")
    for path in sorted({path for _, path, _ in LINK.findall(text)}):
        target = RESULTS / path
        if target.is_file() and target.suffix != ".md":
            files.append(File.generated(config, path, abs_src_path=str(target)))
    files.append(File.generated(config, "results.md", content=LINK.sub(_reachable, text)))
    return files


def _reachable(link: re.Match[str]) -> str:
    """Returns a link of the results page, or its text alone where it leads to a file that the site does not have."""
    label, path, anchor = link[1], link[2], link[3] or ""
    target = RESULTS / path
    if "://" in path or (target.is_file() and target.suffix != ".md"):
        return f"{label}({path}{anchor})"
    return f"{label[1:-1]} (`{(Path('results') / path).as_posix()}`)" if target.exists() else label[1:-1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces $...$ and $$...$$ by MathML, which browsers show without any script; code stays as it is.

    Links to the repository's results page, as one reads it there, lead to that of the site.
    """
    parts = CODE.split(markdown.replace("(../../results/README.md", "(results.md"))
    for i in range(0, len(parts), 2):
        shown = DISPLAY.sub(lambda found: convert(found[1].strip(), display="block"), parts[i])
        parts[i] = INLINE.sub(lambda found: convert(found[1]), shown)
    return "".join(parts)
