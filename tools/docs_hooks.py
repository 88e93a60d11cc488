"""Hooks of the site's build: the method pages, and the navigation that takes them up."""

from pathlib import Path
from typing import Any

import method_pages
from board_rows import board_rows
from mkdocs.structure.files import File, Files


def on_config(config: Any) -> Any:
    """Complete the navigation, and make the pages once for all later steps."""
    board = config.extra["board"]
    rows = board_rows(Path(board)) if board else None
    made = config.extra["method_pages"] = method_pages.pages(rows)
    config.nav = [_completed(item, made) for item in config.nav]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the method pages to the files of docs/."""
    for page in config.extra["method_pages"]:
        files.append(File.generated(config, page.path, content=page.text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Hide the side navigation where it would show one page."""
    if page.parent is None:
        page.meta["hide"] = ["navigation"]
    return markdown


def _completed(item: Any, made: list[method_pages.Page]) -> Any:
    ((title, inside),) = item.items()
    return {title: _methods(made) if title == "Methods" else inside}


def _methods(made: list[method_pages.Page]) -> list[Any]:
    """Return a group a kind, in which the overview comes first, then the single pages."""
    groups: dict[str, list[Any]] = {}
    single = []
    for page in made:
        folder = page.path.split("/")[1:-1]
        if not folder:
            single.append({page.title: page.path})
        elif page.path.endswith("index.md"):
            groups[page.title] = [page.path]
        else:
            groups[folder[0].capitalize()].append({page.title: page.path})
    return [*({title: inside} for title, inside in groups.items()), *single]
