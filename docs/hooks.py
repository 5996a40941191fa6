"""MkDocs hooks: pages generated from other files, links between pages, and a check for resources on other hosts."""

import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, ExecutePreprocessor
from reference import commands, components, names

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
API = "reference/api/"  # pages for modules, which are listed in the navigation in mkdocs.yml
PAGES |= {f"notebooks/{file.name}": f"tutorials/{file.stem}.md" for file in ROOT.glob("notebooks/*.ipynb")}
FIRST = "---\nsearch: {boost: 5}\n---\n\n"  # ranks the page higher in search results
FOLDERS = {"notebooks": "tutorials/01_first_vae.md"}  # the pages to which links to a directory lead
# attributes whose addresses the browser loads by itself
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are generated from other files."""
    notebooks = [source for source in PAGES if source.endswith(".ipynb")]
    for source in PAGES.keys() - notebooks:
        files.append(File.generated(config, PAGES[source], abs_src_path=str(ROOT / source)))
    with ThreadPoolExecutor() as pool:
        executed = pool.map(notebook, [(ROOT / source).read_text() for source in notebooks])
    for source, (text, images) in zip(notebooks, executed, strict=True):
        files.append(File.generated(config, PAGES[source], content=text))
        for name, image in images.items():
            files.append(File.generated(config, f"tutorials/{name}", content=image))
    files.append(File.generated(config, "reference/components.md", content=FIRST + components()))
    files.append(File.generated(config, "reference/commands.md", content=FIRST + commands()))
    for page in re.findall(rf"{API}\S+\.md", str(config.nav)):
        name = page.removeprefix(API).removesuffix(".md")
        text = f"    options: {{members: false}}\n\n{names()}" if name == "vae_lab" else ""
        files.append(File.generated(config, page, content=f"# {name}\n\n::: {name}\n{text}"))


@cache
def notebook(source: str) -> tuple[str, dict[str, bytes]]:
    """Run a notebook and return it as Markdown, together with its images by name."""
    cells = nbformat.reads(source, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        ExecutePreprocessor(timeout=600, extra_arguments=["--log-level=ERROR"]).preprocess(
            cells, {"metadata": {"path": folder}}
        )
    cells, _ = CoalesceStreamsPreprocessor(enabled=True).preprocess(cells, {})
    name = re.sub(r"\W+", "_", cells.cells[0].source.splitlines()[0]).strip("_").lower()
    text, resources = MarkdownExporter().from_notebook_node(cells, {"unique_key": name, "output_files_dir": name})
    text = re.sub(r"\$\$(.+?)\$\$", formula, text, flags=re.DOTALL)
    return text, resources["outputs"]


def formula(found: re.Match[str]) -> str:
    """Return a formula as MathML, which browsers display without a script."""
    return f'<div class="formula">{convert(found[1], display="block")}</div>'


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Convert links between files in the repository to links between pages, or to plain text if there is no page."""
    here = page.file.src_uri
    origin = next((source for source, made in PAGES.items() if made == here), f"docs/{here}")

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.groups()
        path = os.path.normpath(Path(origin).parent / target)
        made = PAGES.get(path) or FOLDERS.get(path) or path.removeprefix("docs/")
        if files.get_file_from_path(made):
            return f"[{words}]({os.path.relpath(made, Path(here).parent)}{anchor or ''})"
        return words if (ROOT / path).exists() else found[0]

    return re.sub(r"\[([^]]*)]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)


class Loads(HTMLParser):
    """Collects the addresses that a browser loads when it opens a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = re.findall(r"""(?:@import\s+(?!url)|url\()['"]?([^'")\s]+)""", page)
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attributes)
        if given.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(given.get(LOADED.get(tag, "")) or "")


def on_post_build(config: MkDocsConfig) -> None:
    """Check that no page or style sheet loads anything from another host."""
    for file in Path(config.site_dir).rglob("*"):
        if file.suffix in (".html", ".css"):
            away = [each for each in Loads(file.read_text()).addresses if re.match(r"(https?:)?//", each)]
            if away:
                raise PluginError(f"{file}: loads {away[0]} from another host")
