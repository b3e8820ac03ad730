"""The command line, with a note of every JPEG that reaches Pillow's decoder."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image, JpegImagePlugin

NOTES = Path(os.environ["PICTURE_NOTES"])
usual = JpegImagePlugin.JpegImageFile._open


def noting(self: Any) -> None:
    with NOTES.open("a") as notes:
        notes.write("JPEG\n")
    usual(self)


if __name__ == "__main__":
    JpegImagePlugin.JpegImageFile._open = noting  # type: ignore[method-assign]
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    Image.open(file)  # our own, to see that a note would be written
    assert NOTES.read_text() == "JPEG\n"
    NOTES.write_text("")
    from lightning_arrcoc import cli

    sys.argv = ["lightning_arrcoc", *sys.argv[1:]]
    cli.main()
