"""HTML pages that need no network: one look, everything within one file, every name from data escaped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def page_environment(*folders: Path) -> Environment:
    """Templates of some folders, which may extend `base.html` and use its style sheet and tiles.

    Values are escaped for HTML; `value | tojson` gives JSON that is safe within a script element.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
