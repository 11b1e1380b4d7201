"""What a person reads: names made safe and visible for pages, plotly's pseudo-HTML and data blocks."""

from __future__ import annotations

import html
import json
import re
from typing import Any

# What reorders or hides its neighbours: bidirectional marks, joiners, byte order mark, line and paragraph separators.
INVISIBLE = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\x7f-\x9f\ud800-\udfff]")
CONTROL = re.compile("[\x00-\x1f]")


def shown(text: object, limit: int = 200) -> str:
    """Give ``text`` so that every character of it can be seen, at most ``limit`` characters long.

    Control characters become their Unicode pictures (NUL becomes ␀), characters that reorder or hide their neighbours
    become their code points (⟨U+202E⟩), and a longer text loses its middle. The result is plain text: escaping it is
    the work of the place it goes to.

    >>> shown("a\\x00b"), shown("\\u202egnp.exe")
    ('a␀b', '⟨U+202E⟩gnp.exe')
    >>> shown("x" * 500, limit=9)
    'xxxx…xxxx'
    """
    visible = CONTROL.sub(lambda match: chr(0x2400 + ord(match[0])), str(text))
    visible = INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", visible)
    if len(visible) <= limit:
        return visible
    tail = (limit - 1) // 2
    return visible[: limit - 1 - tail] + "…" + (visible[-tail:] if tail else "")


def plotly_text(text: object, limit: int = 200) -> str:
    """Give ``text`` for a place where plotly reads pseudo-HTML (titles, annotations, hover boxes): shown literally.

    >>> plotly_text("<b>&amp;</b>")
    '&lt;b&gt;&amp;amp;&lt;/b&gt;'
    """
    return html.escape(shown(text, limit), quote=False).replace(
        "$", "&#36;"
    )  # between dollars plotly would see mathematics


def data_block(value: Any) -> str:
    """Give ``value`` as JSON that may stand inside a ``<script type="application/json">`` element.

    ASCII only, keys in their given order, no NaN (``ValueError``), and none of ``< > &``, so that no text in it can end
    the element or begin a comment.

    >>> data_block({"name": "</script><!--"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
