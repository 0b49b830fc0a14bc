"""Makes the template thumbnails: runs every workflow and lays its results side by side in a same-name .jpg."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

from PIL import Image, ImageOps
from tqdm import tqdm

from . import workflow as ui
from .api import Client
from .errors import SetupError
from .host import HOST_FOLDER, ROOT
from .server import running

SIZE = 512


def compose(results: list[list[Image.Image]]) -> Image.Image:
    """One square: each result is a column of its first pictures. Charts and wide sheets are left out."""
    results = [images for images in results if images[0].width <= 1.5 * images[0].height] or results
    columns = len(results)
    rows = max(1, min(columns, *(len(images) for images in results)))
    width, height = SIZE // columns, SIZE // rows
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    for x, images in enumerate(results):
        for y, image in enumerate(images[:rows]):
            tile = ImageOps.pad(image.convert("RGB"), (width - 4, height - 4), Image.Resampling.LANCZOS, "white")
            sheet.paste(tile, (x * width + 2, y * height + 2))
    return sheet


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="thumbnails-", dir=HOST_FOLDER) as base, \
            running(Path(base), HOST_FOLDER / "thumbnails.log") as server:
        client = Client(server.address)
        object_info = client.json("/object_info")
        for path in tqdm(sorted((ROOT / "workflows").glob("*.json")), unit="workflow"):
            run = client.run(ui.to_api(json.loads(path.read_text(encoding="utf-8")), object_info))
            if run.status != "success":
                raise SetupError(f"{path.name}: {run.explain()}")
            nodes = sorted((node_id for node_id in run.outputs if run.images(node_id)), key=int)
            pictures = [[Image.open(io.BytesIO(client.image(image))).convert("RGB") for image in run.images(node_id)]
                        for node_id in nodes]
            compose(pictures).save(path.with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
