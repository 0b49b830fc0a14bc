"""`make serve`: the graph editor with the pack and the demo model, until Ctrl-C."""

from __future__ import annotations

import os
import sys

from .comfy.host import HOST_FOLDER, locate
from .comfy.server import running
from .errors import SetupError


def wished_port() -> int:
    text = os.environ.get("PORT") or "8188"
    if not text.isdigit() or not 0 < int(text) < 2**16:
        raise SetupError(f"PORT={text} is no port number. Example: make serve PORT=8288")
    return int(text)


def serve() -> None:
    # A person's own ComfyUI brings its models along; outputs and saved workflows stay in our base directory.
    extra = ["--models-directory", str(locate() / "models")] if os.environ.get("COMFYUI_PATH") else []
    base = HOST_FOLDER / "base"
    print("starting ComfyUI", flush=True)
    with running(base, HOST_FOLDER / "serve.log", port=wished_port(), extra=extra) as server:
        print(
            f"Fovea is ready: {server.address}\n"
            "Open it in a browser; the workflows are under Templates, in the group fovea.\n"
            f"Images go to {base / 'output'}. Stop with Ctrl-C.",
            flush=True,
        )
        server.process.wait()
    raise SetupError(f"ComfyUI ended by itself. Its log: {server.log}")


if __name__ == "__main__":
    try:
        serve()
    except KeyboardInterrupt:
        sys.exit("\nstopped")
