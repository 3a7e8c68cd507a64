"""What the pages share: the frame they are rendered in, their style, and text, data and scripts made safe to embed.

Text from a corpus, a vocabulary or a configuration is treated as hostile: control and direction marks become
visible escapes, markup becomes characters, and JSON cannot close the element that holds it. Knows nothing of runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from minigpt.base import formats
from minigpt.base.formats import visible

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent


def environment() -> Environment:
    """Return the environment that renders the templates of this folder; everything printed is escaped and visible."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # NOTE: not Markup, which is a str too
    )
    made.filters |= {"json_block": json_block, "script_hash": script_hash}
    made.filters |= {
        name: getattr(formats, name) for name in ("percent", "fixed", "whole", "count", "short", "perplexity")
    }
    return made


def render(template: str, styles: Sequence[str] = (), scripts: Sequence[str] = (), **content: Any) -> str:
    """A page with our style and more of it, and with the scripts of these names, which its own policy admits."""
    style = Markup("").join(map(resource, ("page.css", *styles)))
    found = environment().get_template(template)
    return found.render(style=style, scripts=[resource(name) for name in scripts], **{"crumbs": (), **content})


def resource(name: str) -> Markup:
    """The text of a file of this folder, our own style or script, to embed in a page as it is."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def script_hash(script: str) -> str:
    """The source expression by which a content security policy allows exactly this inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def json_block(value: Any) -> Markup:
    """`value` as JSON for a `<script type="application/json">`, unable to end it or to open another element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def csv_link(text: str) -> str:
    """A `data:` address that downloads this CSV."""
    return "data:text/csv;charset=utf-8," + quote(text, safe=",:/")
