"""A game for two to four on one network: whoever collects five coins first wins.

    python examples/coins.py host            one of you (--players 3 if you are three)
    python examples/coins.py join --as ben   the others

Arrow keys or w, a, s, d; q ends. Where you are goes unreliably, thirty times a second: the next position replaces a lost one. Who
got which coin goes reliably, on a channel of its own. Without curses it prints the board, and reads letters and Enter; with --bot
nobody need play at all.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import sys
import threading
import time
from typing import Any, TypeGuard

import peergram
from peergram import SendFlags

WIDTH, HEIGHT, COINS, WINS_AT, PLAYERS_MAX, NAME_MAX = 40, 14, 3, 5, 4, 12
POSITIONS, NEWS = 0, 1
FRAME_S = 1 / 30
STEPS = {"w": (0, -1), "a": (-1, 0), "s": (0, 1), "d": (1, 0)}


class Game:
    """What a player sees: where everybody is, where coins lie, who has how many."""

    def __init__(self, me: str, net: peergram.Messages) -> None:
        self.me, self.net = me, net
        self.places: dict[str, list[int]] = {me: random_place()}
        self.coins: list[list[int]] = []
        self.scores: dict[str, int] = {}
        self.text = ""
        self.is_over = False

    def step(self, key: str) -> None:
        if key in STEPS:
            (x, y), (dx, dy) = self.places[self.me], STEPS[key]
            self.places[self.me] = [min(max(x + dx, 0), WIDTH - 1), min(max(y + dy, 0), HEIGHT - 1)]

    def send(self, to: peergram.Identity | str, what: dict[str, Any], channel: int) -> None:
        flags = SendFlags.RELIABLE_NO_NAGLE if channel == NEWS else SendFlags.UNRELIABLE_NO_DELAY
        self.net.send_message_to_user(to, json.dumps(what).encode(), flags, channel)

    def news(self) -> dict[str, Any]:
        return {"coins": self.coins, "scores": self.scores, "text": self.text, "over": self.is_over}

    def lines(self) -> list[str]:
        rows = [[" "] * WIDTH for _ in range(HEIGHT)]
        for x, y in self.coins:
            rows[y][x] = "o"
        for name, (x, y) in self.places.items():
            rows[y][x] = "@" if name == self.me else name[0].upper()
        edge = "+" + "-" * WIDTH + "+"
        scores = "  ".join(f"{name}: {score}" for name, score in self.scores.items())
        return [edge, *("|" + "".join(row) + "|" for row in rows), edge, scores, self.text]


class Host(Game):
    """Plays as well, and says who got which coin."""

    def __init__(self, me: str, party: str, players: int) -> None:
        super().__init__(me, peergram.Messages(party))
        self.players = players
        self.guests: dict[peergram.Identity, str] = {}
        self.scores[me] = 0
        self.text = "waiting for somebody to join"
        self.coins = [random_place() for _ in range(COINS)]
        self.has_begun = False
        self.net.on_session_request = self.requested
        self.net.on_session_failed = lambda failure: self.leave(failure.identity)

    def requested(self, request: peergram.SessionRequested) -> None:
        if len(self.scores) < PLAYERS_MAX:
            self.net.accept_session_with_user(request.identity)

    def frame(self) -> None:
        self.net.run_callbacks()
        for message in self.net.receive_messages_on_channel(NEWS, 100):
            what = read(message.payload)
            if "name" in what and message.identity not in self.guests and len(self.scores) < PLAYERS_MAX:
                self.join(message.identity, str(what["name"])[:NAME_MAX] or "?")
            elif "bye" in what:
                self.leave(message.identity)
        for message in self.net.receive_messages_on_channel(POSITIONS, 1_000):
            name, place = self.guests.get(message.identity), read(message.payload).get("place")
            if name is not None and is_place(place):
                self.places[name] = place
        if self.has_begun and not self.is_over:
            self.collect()
        for guest in self.guests:
            self.send(guest, {"places": self.places}, POSITIONS)

    def join(self, guest: peergram.Identity, name: str) -> None:
        while name in self.scores:
            name += "'"
        self.guests[guest] = name
        self.scores[name] = 0
        self.places[name] = random_place()
        self.send(guest, {"you": name}, NEWS)
        self.has_begun = self.has_begun or len(self.scores) >= self.players
        self.tell(f"{name} has joined" + ("" if self.has_begun else ", more are to come"))

    def leave(self, guest: peergram.Identity) -> None:
        name = self.guests.pop(guest, None)
        if name is not None:
            del self.scores[name], self.places[name]
            self.tell(f"{name} has left")

    def collect(self) -> None:
        for name, place in self.places.items():
            if place in self.coins:
                self.coins[self.coins.index(place)] = random_place()
                self.scores[name] += 1
                self.is_over = self.scores[name] >= WINS_AT
                self.tell(f"{name} {'wins!' if self.is_over else 'has a coin'}")
                if self.is_over:
                    return

    def tell(self, text: str) -> None:
        self.text = text
        for guest in self.guests:
            self.send(guest, self.news(), NEWS)

    def close(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.tell("the host has ended the game")
        self.net.close()


class Guest(Game):
    """Sends where he is, believes the host in everything."""

    def __init__(self, me: str, party: str) -> None:
        # Whoever hosts the next party of this name need not be the same.
        super().__init__(me, peergram.Messages(key=False, known_peers=False, state=False))
        self.party = party
        self.text = f"looking for {party} on this network"
        self.net.on_session_failed = self.failed
        self.send(party, {"name": me}, NEWS)

    def failed(self, failure: peergram.SessionFailed) -> None:
        self.text, self.is_over = f"no game: {failure.debug}", True

    def frame(self) -> None:
        self.net.run_callbacks()
        for message in self.net.receive_messages_on_channel(NEWS, 100):
            what = read(message.payload)
            if "you" in what:
                self.places[what["you"]] = self.places.pop(self.me)
                self.me = what["you"]
            elif "coins" in what:
                self.coins, self.scores = what["coins"], what["scores"]
                self.text, self.is_over = what["text"], what["over"]
        for message in self.net.receive_messages_on_channel(POSITIONS, 1_000):
            mine = self.places[self.me]
            self.places = {**read(message.payload)["places"], self.me: mine}
        if self.scores and not self.is_over:
            self.send(self.party, {"place": self.places[self.me]}, POSITIONS)

    def close(self) -> None:
        if not self.is_over:
            self.send(self.party, {"bye": True}, NEWS)
        self.net.close()


class Bot:
    """Walks to the nearest coin; nobody looks, nobody types."""

    def __init__(self, game: Game) -> None:
        self.game = game

    def key(self) -> str:
        x, y = self.game.places[self.game.me]
        if not self.game.coins or random.random() < 0.3:
            return ""
        to_x, to_y = min(self.game.coins, key=lambda coin: abs(coin[0] - x) + abs(coin[1] - y))
        return "d" if to_x > x else "a" if to_x < x else "s" if to_y > y else "w"

    def draw(self) -> None:
        pass


class Lines:
    """A terminal without curses: the board when something has changed, letters and Enter to move."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.shown: list[str] = []
        self.next_s = 0.0
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        for line in sys.stdin:
            for key in line.strip():
                self.keys.put(key)

    def key(self) -> str:
        return "" if self.keys.empty() else self.keys.get()

    def draw(self) -> None:
        lines = self.game.lines()
        if lines != self.shown and time.monotonic() >= self.next_s:
            print("\n".join(lines), flush=True)
            self.shown, self.next_s = lines, time.monotonic() + 1


class Curses:
    """The whole terminal."""

    def __init__(self, game: Game, screen: Any) -> None:
        import curses

        self.game, self.screen = game, screen
        screen.nodelay(True)
        screen.keypad(True)
        self.arrows = {curses.KEY_UP: "w", curses.KEY_LEFT: "a", curses.KEY_DOWN: "s", curses.KEY_RIGHT: "d"}

    def key(self) -> str:
        code = self.screen.getch()
        return self.arrows.get(code, chr(code) if 0 <= code < 256 else "")

    def draw(self) -> None:
        height, width = self.screen.getmaxyx()
        self.screen.erase()
        for row, line in enumerate(self.game.lines()[: height - 1]):
            self.screen.addstr(row, 0, line[: width - 1])
        self.screen.refresh()


def play(game: Host | Guest, face: Bot | Lines | Curses, seconds: float) -> None:
    """Frames, until the game is over or somebody has had enough."""
    until_s = time.monotonic() + seconds
    next_s = time.monotonic()
    while not game.is_over and time.monotonic() < until_s:
        key = face.key()
        if key == "q":
            return
        game.step(key)
        game.frame()
        face.draw()
        next_s += FRAME_S
        time.sleep(max(0.0, next_s - time.monotonic()))


def random_place() -> list[int]:
    return [random.randrange(WIDTH), random.randrange(HEIGHT)]


def is_place(value: Any) -> TypeGuard[list[int]]:
    """What others send need not be what we expect."""
    if not (isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value)):
        return False
    return value[0] in range(WIDTH) and value[1] in range(HEIGHT)


def read(payload: bytes) -> dict[str, Any]:
    try:
        what = json.loads(payload)
    except ValueError:
        return {}
    return what if isinstance(what, dict) else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("role", choices=["host", "join"])
    parser.add_argument("--party", default="coins", help="the name of the game on this network")
    parser.add_argument("--players", type=int, default=2, choices=range(2, PLAYERS_MAX + 1), help="the host begins with so many")
    parser.add_argument("--as", dest="name", default="", help="your name")
    parser.add_argument("--bot", action="store_true", help="plays by itself and shows nothing")
    parser.add_argument("--seconds", type=float, default=3_600, help="longest game")
    options = parser.parse_args()
    name = options.name or ("anna" if options.role == "host" else "ben")
    game: Host | Guest
    if options.role == "host":
        game = Host(name[:NAME_MAX], options.party, options.players)
    else:
        game = Guest(name[:NAME_MAX], options.party)
    try:
        if options.bot:
            play(game, Bot(game), options.seconds)
        else:
            try:
                import curses

                if not (sys.stdin.isatty() and sys.stdout.isatty()):
                    raise ImportError("no terminal")
            except ImportError:
                play(game, Lines(game), options.seconds)
            else:
                curses.wrapper(lambda screen: play(game, Curses(game, screen), options.seconds))
    except KeyboardInterrupt:
        pass
    finally:
        game.close()
    print(f"{game.text} ({', '.join(f'{who} {score}' for who, score in game.scores.items())})")


if __name__ == "__main__":
    main()
