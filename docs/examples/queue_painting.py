"""Regions from PNG files, queued over ComfyUI's API.

    python queue_painting.py graph.json star.png="a plain red star" heart.png="a striped green heart"

Each PNG is white where its prompt should be; they may overlap. graph.json is a graph in API format ("Export (API)" in
the editor) with a FoveaRegionPainter in it, such as demo/painter.json. Needs Pillow and nothing else.
"""

import argparse
import base64
import io
import json
import urllib.error
import urllib.request

from PIL import Image, ImageChops


def painting(places: list[tuple[str, str]], prompt: str = "") -> dict:
    """FoveaRegionPainter's inputs. places: (file, prompt), later ones lie in front; the first picture's size counts.
    prompt: of the whole picture."""
    masks = [mask(file) for file, _ in places]
    width, height = masks[0].size
    regions = [{"prompt": own, "mask": url(each.resize((width, height)))} for each, (_, own) in zip(masks, places)]
    text = json.dumps({"version": 2, "width": width, "height": height, "prompt": prompt, "regions": regions})
    return {"width": width, "height": height, "painting": text}


def mask(file: str) -> Image.Image:
    """A picture as a mask: white is inside, black and clear are not."""
    picture = Image.open(file).convert("RGBA")
    return ImageChops.multiply(picture.convert("L"), picture.getchannel("A"))


def url(picture: Image.Image) -> str:
    """A mask as the text of a PNG."""
    data = io.BytesIO()
    picture.save(data, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def queue(graph: dict, server: str) -> str:
    """The prompt's id. What the server finds wrong with the graph is said in its words."""
    request = urllib.request.Request(
        f"{server}/prompt", json.dumps({"prompt": graph}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)["prompt_id"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"The server refuses this graph: {error.read().decode(errors='replace')}") from None
    except urllib.error.URLError as error:
        raise SystemExit(f"No server answers at {server}: {error.reason}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph")
    parser.add_argument("places", nargs="+", metavar="FILE.png=PROMPT")
    parser.add_argument("--prompt", default="", help="of the whole picture; else the regions' prompts in a row")
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    args = parser.parse_args()
    with open(args.graph, encoding="utf-8") as file:
        graph = json.load(file)
    places = [(file, prompt) for file, _, prompt in (place.partition("=") for place in args.places)]
    painters = [node for node in graph.values() if node["class_type"] == "FoveaRegionPainter"]
    if not painters:
        raise SystemExit(f"{args.graph} has no FoveaRegionPainter.")
    for node in painters:
        node["inputs"].update(painting(places, args.prompt))
    print("queued as", queue(graph, args.server))


if __name__ == "__main__":
    main()
