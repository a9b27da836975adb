"""Pages that need nothing else: no other file, no font, nothing from the network."""

from __future__ import annotations

import base64
import html

_PAGE_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
.note { color: #555; font-size: .9rem; margin: .3rem 0; }
"""
# Of tables and figures, which pages of other makes show as well.
TABLE_STYLE = """
table { border-collapse: collapse; width: 100%; }
th, td { padding: .25rem .6rem .25rem 0; text-align: left; border-bottom: 1px solid #e5e5e5;
  font-weight: normal; vertical-align: middle; }
thead th { color: #555; font-size: .85rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 0; } figcaption { font-size: .9rem; }
"""


def text(content: str) -> str:
    """Shown as it is: no tag, no entity, no end of an attribute."""
    return html.escape(content, quote=True)


def label(name: str) -> str:
    """A name as text that may be broken after an underscore, as names of classes often have."""
    return text(name).replace("_", "_<wbr>")


def data_uri(content: bytes, kind: str) -> str:
    """A file's content as the address of itself; `kind` is its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
      title: plain text.
      body, style, script: HTML, CSS after that of all pages, JavaScript.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_PAGE_STYLE}{TABLE_STYLE}{style}</style>\n{body}\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</html>\n"
    )
