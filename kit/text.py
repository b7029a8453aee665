"""The bytes of text files as text, in whichever Unicode encoding an editor or a shell wrote them:
UTF-8 with a byte order mark or without, UTF-16 (Windows PowerShell's ``>``), UTF-32."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

# What is no character becomes one that UTF-8 has not, so that its line alone is broken.
codecs.register_error("broken", lambda error: ("\ud800", error.end))


def decoded(content: bytes) -> str:
    """The text of a whole file.

    Raises:
        UnicodeDecodeError: it is none.

    >>> decoded("é".encode("utf-16")), decoded(b"\\xef\\xbb\\xbf{}")
    ('é', '{}')
    """
    return content.decode(json.detect_encoding(content))


def utf8_lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a file in UTF-8, each with its end (``\\n``, ``\\r\\n`` or ``\\r``; no other
    character ends one) and without a byte order mark, also where files were joined.

    >>> list(utf8_lines(io.BufferedReader(io.BytesIO(b"\\xef\\xbb\\xbf1\\r\\n2\\r3"))))
    [b'1\\r\\n', b'2\\r', b'3']
    """
    encoding = json.detect_encoding(stream.peek(4)[:4])
    pieces: Iterable[bytes] = stream
    if not encoding.startswith("utf-8"):
        text = io.TextIOWrapper(stream, encoding, "broken", newline="")
        pieces = (piece.encode("utf-8", "surrogatepass") for piece in text)
    for piece in pieces:
        for line in _LINE.findall(piece):
            yield line.lstrip(codecs.BOM_UTF8)
