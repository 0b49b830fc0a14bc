"""What people type into the editor's search finds the node that they want: first, or first of this pack's."""

from __future__ import annotations

import pytest
from painter_page import opened, search_for

pytestmark = [pytest.mark.browser, pytest.mark.server]
# In the words of those who know other packs, papers or what they want to do.
WANTED = {
    "SAG": "Self-Attention Guidance (Fovea)",
    "regional prompting": "Dense Diffusion",
    "regional prompter": "Dense Diffusion",
    "latent couple": "Dense Diffusion",
    "attention couple": "Dense Diffusion",
    "attention mask": "Dense Diffusion",
    "area prompt": "Dense Diffusion",
    "paint with words": "Paint with Words",
    "ediff": "Dense Diffusion",
    "ediffi": "Paint with Words",
    "eDiff-I": "Expert",
    "two models": "Expert Switch",
    "dual model": "Expert Switch",
    "high low noise": "Expert Switch",
    "best seed": "Best of N",
    "seed finder": "Best of N",
    "reno": "Optimize Latent",
    "aesthetic score": "Score Images",
    "HPSv2": "Load Scorer",
    "PickScore": "Load Scorer",
    "two prompts": "Encoder Schedule",
    "saliency": "Saliency Map",
}
# Nodes of ComfyUI itself have these words in their names, or in their aliases and are known to be used more: they lead.
BEHIND_OTHERS = {"area prompt", "dual model", "ediff", "ediffi", "reno"}
# A blueprint of ours with the words in its name stands before the node.
BLUEPRINTS = {"two models": ["Two models in one run (Fovea)", "Blueprint"]}
# Name and pack of what is offered, as far down as it is drawn.
OFFERED = """() => [...document.querySelectorAll('[role=option]')].map(one => one.innerText.split('\\n').slice(0, 2))"""


def first_of_ours(offered: list[list[str]]) -> str | None:
    return next((name for name, pack in offered if pack == "fovea"), None)


def test_words_find_their_node(page, client, settings) -> None:
    opened(page, client, settings, "classic")
    search_for(page, "", (900, 900))
    wrong = {}
    for words, wanted in WANTED.items():
        page.keyboard.press("Control+A")
        page.keyboard.type(words, delay=10)
        offered: list[list[str]] = []
        for _ in range(150):  # the list follows what is typed after a moment
            page.wait_for_timeout(100)
            offered = page.evaluate(OFFERED)
            first = offered[0] if offered else []
            leads = words in BEHIND_OTHERS or first in ([wanted, "fovea"], BLUEPRINTS.get(words))
            if leads and first_of_ours(offered) == wanted:
                break
        else:
            wrong[words] = offered[:12]
    assert not wrong
