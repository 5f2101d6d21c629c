"""Executes every python block of the README and of docs/, so that what a reader copies works."""

import re
import traceback
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A block that is not meant to run carries a `text` fence.
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    """The python blocks of a page, each padded with newlines so that a traceback names the line of the page."""
    text = page.read_text()
    return ["\n" * text[: match.start(1)].count("\n") + match.group(1) for match in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page, tmp_path, monkeypatch):
    """The blocks of one page run in order and share one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    dtype = torch.get_default_dtype()
    namespace = {"__name__": "__main__"}
    try:
        for source in blocks(page):
            exec(compile(source, str(page), "exec"), namespace)
    except Exception:
        pytest.fail(traceback.format_exc(), pytrace=False)
    finally:
        torch.set_default_dtype(dtype)


def test_the_readme_has_snippets():
    assert len(blocks(ROOT / "README.md")) >= 2
