"""HTML pages that need no network: one look, everything within one file, every name from data escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_gam.core import page_text

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def page_environment(*folders: Path) -> Environment:
    """Templates of some folders, which may extend `base.html` and use its style sheet and tiles.

    Values are escaped for HTML, and every text of theirs is one that shows (`timm_gam.core.page_text`), also in
    `value | tojson`, which is safe within a script element; `text | forceescape` keeps what a program reads.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if hasattr(value, "__html__") else _shown(value),
    )
    environment.policies["json.dumps_function"] = lambda value, **options: json.dumps(_shown(value), **options)
    return environment


def _shown(value: Any) -> Any:
    """The same value with every text in it as a page shows it; keys stay."""
    if isinstance(value, str):
        return page_text(value)
    if isinstance(value, Mapping):
        return {key: _shown(inner) for key, inner in value.items()}
    return [_shown(inner) for inner in value] if isinstance(value, list | tuple) else value
