# SPDX-License-Identifier: Apache-2.0
"""A console's bytes as the ASCII text that Nova can carry.

Nova's compute manager decodes a console log as ASCII and puts a replacement sign for every other
byte: three for one ellipsis.  systemd writes its status lines in UTF-8, so what a guest says is
spelt in ASCII before Nova has it.
"""

from __future__ import annotations

import unicodedata

_SPELT = {
    "…": "...", "⋮": ":", "●": "*", "○": "*", "◌": "*", "•": "*", "·": ".", "×": "x", "↻": "~",
    "→": "->", "←": "<-", "↑": "^", "↓": "v", "⇒": "=>", "▸": ">", "✓": "+", "✔": "+", "✗": "x",
    "✘": "x", "–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"',
    "„": '"', "«": "<<", "»": ">>", "µ": "u", "μ": "u", "ß": "ss", "─": "-", "━": "-", "│": "|",
    "┃": "|", "├": "|", "┤": "|", "└": "`", "┘": "'", "┌": ",", "┐": ".", "┬": "-", "┴": "-",
    "┼": "+", "█": "#", "░": ".", "\ufeff": "",
}  # fmt: skip
UNKNOWN = "?"


def to_ascii(log: bytes) -> str:
    """Spell ``log``, UTF-8 for the most part, in ASCII; what has no spelling becomes a ``?``."""
    if log.isascii():
        return log.decode("ascii")
    text = _without_torn_start(log).decode("utf-8", "replace")
    return "".join(sign if sign.isascii() else _spell(sign) for sign in text)


def _without_torn_start(log: bytes) -> bytes:
    """Leave out the rest of a character whose start fell off: the end of a log is cut anywhere."""
    torn = 0
    while torn < min(3, len(log)) and log[torn] & 0xC0 == 0x80:
        torn += 1
    return log[torn:]


def _spell(sign: str) -> str:
    spelt = _SPELT.get(sign)
    if spelt is not None:
        return spelt
    plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode("ascii")
    # An accent by itself belongs to the letter before it, which stands already.
    return plain or ("" if unicodedata.combining(sign) else UNKNOWN)
