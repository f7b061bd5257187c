"""Video captures of OpenCV, opened so that one that cannot be read is an error, and not an empty film.

OpenCV is imported when the first one is opened. Any build will do: no window is ever made, which headless builds lack.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from memwarden.errors import ExtraMissing, ReadError


def open_capture(source: str | os.PathLike[str] | int) -> Any:
    """A ``cv2.VideoCapture`` of a file, an address or a camera's number; ``release()`` it.

    Raises :class:`~memwarden.errors.ExtraMissing` without OpenCV (or with one whose libraries are not here), and
    :class:`~memwarden.errors.ReadError` for what cannot be opened as a video.
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
