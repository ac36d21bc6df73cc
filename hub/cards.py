"""Cards from the templates in `hub/templates`: there, text from data passes `text`, `code` or, in a table, `cell`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import CardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from timm_gam.core import markdown_code, markdown_text

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["text"] = lambda value: markdown_text(str(value))
_TEMPLATES.filters["code"] = lambda value: markdown_code(str(value))
_TEMPLATES.filters["cell"] = lambda value: markdown_code(str(value)).replace("|", "\\|")


def render_card(template: str, metadata: CardData, **values: Any) -> str:
    """A README.md: metadata that the Hub reads, then a template of "model", "dataset" or "space" with `values`."""
    return f"---\n{metadata.to_yaml()}\n---\n\n" + _TEMPLATES.get_template(f"{template}.md").render(values)
