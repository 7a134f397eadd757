"""A file of what could not be loaded, a JSON object on each line."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from citus_analytics.gharchive import Reject


def write_reject(file: BinaryIO, source: str, reject: Reject) -> None:
    """Write one reject: its source, line and reason, and the text as it was.

    The text is in `text`, or in `base64` if it is no UTF-8. An unbuffered file may take
    only a part of a line at once: only on the next try does it say that its disk is full.
    """
    record: dict[str, object] = {"source": source, "line": reject.line, "reason": reject.reason}
    try:
        record["text"] = reject.text.decode()
    except UnicodeDecodeError:
        record["base64"] = base64.b64encode(reject.text).decode()
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    while line:
        line = line[file.write(line) :]
