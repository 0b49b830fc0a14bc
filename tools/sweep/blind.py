"""Which of two pictures do people like better? A page on this machine; random sides, votes kept in a file.

The papers' human studies, for anyone. Votes are lines of blind.jsonl; a pair is shown once.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..errors import SetupError
from ..studies import metrics

CHOICES = ("left", "right", "equal")
PAGE = Path(__file__).with_name("blind.html")


class Ballot:
    """Pairs of two arms with the same prompt and seed, and the votes on them. folder: of the sweep."""

    def __init__(self, folder: Path, found: dict[str, dict], one: str, other: str, seed: int = 0) -> None:
        missing = [name for name in (one, other) if name not in found]
        if missing:
            raise SetupError(f"there is no arm {missing[0]!r}. There are: {', '.join(found)}")
        self.folder, self.votes_file, self.names = folder, folder / "blind.jsonl", (one, other)
        self.lock = threading.Lock()
        shared = [key for key in found[one] if key in found[other]]
        if not shared:
            raise SetupError(f"{one!r} and {other!r} have no prompt and seed in common yet.")
        rng = random.Random(seed)
        rng.shuffle(shared)
        self.pairs = []
        for key in shared:
            sides = [one, other] if rng.random() < 0.5 else [other, one]
            self.pairs.append({"prompt": key.text, "seed": key.seed, "picture": key.number, "arms": sides,
                               "files": [found[arm][key]["file"] for arm in sides]})  # fmt: skip

    def identity(self, number: int) -> list[Any]:
        pair = self.pairs[number]
        return sorted(pair["files"])  # jobs' keys: other settings of the same name are other pictures

    def votes(self) -> list[dict[str, Any]]:
        """Those on these two arms."""
        if not self.votes_file.exists():
            return []
        shown, read = [self.identity(number) for number in range(len(self.pairs))], []
        for line in self.votes_file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that was cut off
                read.append(json.loads(line))
        return [vote for vote in read if vote["pair"] in shown]

    def waiting(self) -> list[int]:
        seen = [vote["pair"] for vote in self.votes()]
        return [number for number in range(len(self.pairs)) if self.identity(number) not in seen]

    def vote(self, number: int, choice: str) -> None:
        """Raises ValueError for a number or a choice that does not exist."""
        if choice not in CHOICES or not isinstance(number, int) or not 0 <= number < len(self.pairs):
            raise ValueError("no such pair or choice")
        pair = self.pairs[number]
        winner = None if choice == "equal" else pair["files"][CHOICES.index(choice)]  # names of settings may change
        told = {"pair": self.identity(number), "prompt": pair["prompt"], "arms": pair["arms"], "winner": winner}
        with self.lock, self.votes_file.open("a", encoding="utf-8") as file:
            if number in self.waiting():
                whole = not file.tell() or self.votes_file.read_bytes().endswith(b"\n")  # else a line was cut off
                file.write(("" if whole else "\n") + json.dumps(told) + "\n")

    def result(self) -> dict[str, Any]:
        """Wins of the first arm among decided votes, with Wilson's 95 % interval."""
        votes = self.votes()
        of_arm = [{file for pair in self.pairs for arm, file in zip(pair["arms"], pair["files"]) if arm == name}
                  for name in self.names]  # fmt: skip
        wins, losses = (sum(vote["winner"] in files for vote in votes) for files in of_arm)
        return {"arms": self.names, "wins": wins, "losses": losses, "equal": len(votes) - wins - losses,
                "win_rate": _win_rate(wins, losses)}  # fmt: skip


def _win_rate(wins: int, losses: int) -> list[float] | None:
    """With its interval; None without any vote that decides."""
    return metrics.rounded(metrics.wilson(wins, wins + losses)) if wins + losses else None


def server(ballot: Ballot, port: int = 0) -> ThreadingHTTPServer:
    """Serves on this machine only; stop it with shutdown(). The page never learns which arm is which."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.strip("/").split("/")
            if parts == [""]:
                self.reply(PAGE.read_bytes(), "text/html; charset=utf-8")
            elif parts == ["pair"]:
                left = ballot.waiting()
                told: dict[str, Any] = {"left_over": len(left)}
                if left:
                    told |= {"number": left[0], "prompt": ballot.pairs[left[0]]["prompt"]}
                self.reply(json.dumps(told).encode(), "application/json")
            elif len(parts) == 3 and parts[0] == "picture" and parts[1].isdecimal() and parts[2] in CHOICES[:2] \
                    and int(parts[1]) < len(ballot.pairs):  # fmt: skip
                file = ballot.pairs[int(parts[1])]["files"][CHOICES.index(parts[2])]
                self.reply((ballot.folder / file).read_bytes(), "image/png")
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            try:
                if self.path != "/vote" or not self.headers.get("Content-Type", "").startswith("application/json"):
                    raise ValueError("no such page")  # other sites cannot send JSON here
                body = json.loads(self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1000)))
                ballot.vote(body.get("number"), body.get("choice"))
            except (ValueError, AttributeError):
                self.send_error(400)
            else:
                self.reply(b"{}", "application/json")

        def reply(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)
