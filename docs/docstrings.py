"""A Griffe extension that prepares docstrings for Markdown."""

import re
from typing import Any

from griffe import Extension, Object


class Docstrings(Extension):
    """Converts examples, which Markdown would render as quotations, to code blocks, and arXiv numbers to links."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            text = re.sub(r"(?<=arXiv )(\d{4}\.\d{4,5})", r"[\1](https://arxiv.org/abs/\1)", obj.docstring.value)
            obj.docstring.value = re.sub(r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", text, flags=re.MULTILINE)
