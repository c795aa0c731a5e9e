"""Names that become folders, of experiments and arms: letters and digits of any script, and ``. _ + = -``."""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH, MAX_BYTES = 100, 180
"""Longest name in characters, and in UTF-8: a file system takes 255 bytes, and a trial's folder adds seed and hash."""


def safe_text(text: str) -> str:
    """Returns ``text`` in Unicode's composed form, with ``_`` for what a folder's name should not hold."""
    composed = unicodedata.normalize("NFC", text)
    return re.sub(r"\0+", "_", "".join(sign if _may_stand(sign) else "\0" for sign in composed))


def shortened(safe: str, length: int = MAX_LENGTH) -> str:
    """Returns ``safe``, cut to so many characters and to ``MAX_BYTES``."""
    return safe[:length].encode()[:MAX_BYTES].decode(errors="ignore")


def name_from(text: str) -> str:
    """Returns the name of an experiment that ``text``, of a file or folder, gives; empty where it gives none."""
    safe = shortened(safe_text(text)).rstrip("._+=-")
    first = next((place for place, sign in enumerate(safe) if sign.isalnum()), len(safe))
    return safe[first:]


def check_folder_name(name: str) -> str:
    """Returns ``name`` as it is.

    Raises:
        ValueError: saying what a name may hold.
    """
    if not name or shortened(safe_text(name)) != name or not name[0].isalnum():
        raise ValueError(
            "should be letters, digits and . _ + = - alone, with a letter or digit first, at most "
            f"{MAX_LENGTH} characters and {MAX_BYTES} bytes"
        )
    return name


def _may_stand(sign: str) -> bool:
    return sign in "._+=-" or unicodedata.category(sign)[0] in "LMN"  # letters, their marks, numbers
