"""Video captures of OpenCV; a source that cannot be opened is an error, not an empty video.

OpenCV is imported when the first capture is opened. Headless builds suffice.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from memwarden.errors import ExtraMissing, ReadError


def open_capture(source: str | os.PathLike[str] | int) -> Any:
    """Return a ``cv2.VideoCapture`` of a file, an address or a camera number.

    Raises :class:`~memwarden.errors.ExtraMissing` without OpenCV or its libraries, and
    :class:`~memwarden.errors.ReadError` for a source that cannot be opened as a video.
    """
    try:
        cv2 = import_module("cv2")
    except ImportError as error:
        raise ExtraMissing("reading video with OpenCV", "video") from error
    name: str | int = source if isinstance(source, int) else os.fspath(source)
    capture = cv2.VideoCapture(name)
    if capture.isOpened():
        return capture
    capture.release()
    if isinstance(name, int):
        raise ReadError("video", f"camera {name}", "absent", "OpenCV cannot open it")
    if "://" in name or os.path.exists(name):
        raise ReadError("video", name, "malformed", "OpenCV cannot open it as a video")
    raise ReadError("video", name, "absent", "no such file")
