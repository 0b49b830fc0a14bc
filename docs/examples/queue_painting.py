"""Regions from PNG files, queued over ComfyUI's API.

    python queue_painting.py graph.json star.png="a plain red star" heart.png="a striped green heart"

Each PNG is white where its phrase shall be. graph.json is a graph in API format ("Export (API)" in the editor) with a
FoveaRegionPainter in it, such as demo/painter.json. Needs Pillow and nothing else.
"""

import argparse
import base64
import io
import json
import urllib.request

from PIL import Image


def painting(places: list[tuple[str, str]], caption: str = "") -> str:
    """The text for FoveaRegionPainter's input. places: (file, phrase), later ones lie on top."""
    masks = [Image.open(file).convert("L") for file, _ in places]
    index = Image.new("L", masks[0].size, 0)
    for number, mask in enumerate(masks, 1):
        index.paste(number, mask=mask.resize(index.size).point(lambda value: 255 if value >= 128 else 0))
    data = io.BytesIO()
    index.save(data, format="PNG", optimize=True)
    return json.dumps({
        "version": 1, "width": index.width, "height": index.height, "caption": caption,
        "regions": [{"id": number, "phrase": phrase} for number, (_, phrase) in enumerate(places, 1)],
        "map": "data:image/png;base64," + base64.b64encode(data.getvalue()).decode(),
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph")
    parser.add_argument("places", nargs="+", metavar="FILE.png=PHRASE")
    parser.add_argument("--caption", default="", help="of the whole picture; else the phrases in a row")
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    args = parser.parse_args()
    with open(args.graph, encoding="utf-8") as file:
        graph = json.load(file)
    places = [(file, phrase) for file, _, phrase in (place.partition("=") for place in args.places)]
    for node in graph.values():
        if node["class_type"] == "FoveaRegionPainter":
            node["inputs"]["painting"] = painting(places, args.caption)
    body = json.dumps({"prompt": graph}).encode()
    request = urllib.request.Request(f"{args.server}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        print("queued as", json.load(reply)["prompt_id"])


if __name__ == "__main__":
    main()
