"""What could not be loaded: held until it is to be told of, or in a file."""

from __future__ import annotations

import base64
import json
import pickle
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from citus_analytics.github.gharchive import Reject
    from citus_analytics.github.ingest.results import LoadOptions

_MOST_IN_MEMORY: Final = 1 << 22


class HeldRejects:
    """The rejects of a source, until it is read to its end: it may have to be read again.

    Many of them wait in a temporary file. Several threads may meet with them.

    Args:
        options: How to load, and who is to be told of rejects, if anybody.

    Attributes:
        options: The same, but that rejects are held.
    """

    __slots__ = ("_callback", "_count", "_file", "_one_at_a_time", "options")

    def __init__(self, options: LoadOptions) -> None:
        self.options = replace(options, rejects=self._hold)
        self._callback = options.rejects
        self._count = 0
        self._file = SpooledTemporaryFile(max_size=_MOST_IN_MEMORY)  # noqa: SIM115 - see close
        self._one_at_a_time = Lock()

    def close(self) -> None:
        """Forget them."""
        self._file.close()

    def tell(self) -> None:
        """Tell of them all, in the order in which they came."""
        if self._callback is None:
            return
        self._file.seek(0)
        for _ in range(self._count):
            self._callback(pickle.load(self._file))  # noqa: S301 - its own file

    def _hold(self, reject: Reject) -> None:
        if self._callback is not None:
            with self._one_at_a_time:
                pickle.dump(reject, self._file)
                self._count += 1


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
