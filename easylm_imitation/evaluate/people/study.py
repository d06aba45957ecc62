"""The file of a study: who was shown what, and what they said. SQLite in WAL mode; every call is one transaction.

Everything that must not be guessed (links, codes, which side an answer stands on, who sees what in which order) follows
from one secret in the file. The file holds hashes of links, not links. After `rate` returns, neither a kill nor a power
cut loses the rating; saying the same again changes nothing.
"""
import base64
import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

from easylm_imitation.evaluate.people.config import PeopleConfig
from easylm_imitation.evaluate.people.pairs import CHECK, Sets, Turn
from easylm_imitation.schema import UserError, plain

_TABLES = """
CREATE TABLE study (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE items (id INTEGER PRIMARY KEY, model INTEGER NOT NULL, prompt TEXT NOT NULL, turns TEXT NOT NULL) STRICT;
CREATE TABLE raters (id INTEGER PRIMARY KEY, token BLOB UNIQUE, crowd INTEGER NOT NULL, worker TEXT UNIQUE,
                     expected INTEGER, finished INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE given (rater INTEGER NOT NULL REFERENCES raters, number INTEGER NOT NULL,
                    item INTEGER NOT NULL REFERENCES items, mine_left INTEGER NOT NULL, since REAL NOT NULL,
                    rated REAL, choice INTEGER, left_ok INTEGER, right_ok INTEGER, revisions INTEGER NOT NULL DEFAULT 0,
                    PRIMARY KEY (rater, number), UNIQUE (rater, item)) STRICT;
CREATE INDEX given_items ON given (item);
"""


@dataclasses.dataclass(frozen=True)
class Said:
    """What a rater says of what is shown: a place among the choices, and of which side the answer is acceptable."""
    choice: int
    left_ok: bool | None = None
    right_ok: bool | None = None


@dataclasses.dataclass(frozen=True)
class Shown:
    """One thing to rate, as a rater may see it: number in the rater's own order, how many there will be, texts from
    left to right, what was said of it before."""
    number: int
    total: int
    turns: tuple[dict[str, Any], ...]
    said: Said | None


@dataclasses.dataclass(frozen=True)
class Finished:
    """Nothing is left for this rater."""
    code: str
    rated: int


@dataclasses.dataclass(frozen=True)
class Rating:
    """What one rater said of one pair, from the model's side: `answer` counts from 0, the reference's is best, to the
    number of choices - 1, the model's is. `model` is a place among the study's, -1 for a check."""
    rater: int
    worker: str
    number: int
    model: int
    prompt: str
    mine_left: bool
    answer: int
    mine_ok: bool | None
    other_ok: bool | None
    seconds: float          # from when it was shown
    revisions: int
    time: float             # of the last word, seconds since 1970


class Study:
    """An open study; `close` it. Its methods may be called from any thread."""

    def __init__(self, path: str | os.PathLike, sets: Sets, config: PeopleConfig):
        """Opens the study in `path`, or begins it there. Raises UserError when the file holds another study."""
        self.path, self.config = pathlib.Path(path), config
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))     # links follow from what is in it
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: is no study ({error}); choose another --out") from None
        try:
            self._begin(sets)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._db.close()

    # ── who ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def links(self) -> list[str]:
        """The secret of each personal link, in order."""
        with self._transaction() as db:
            ids = db.execute("SELECT id FROM raters WHERE NOT crowd ORDER BY id").fetchall()
        return [self._token(rater) for rater, in ids]

    def crowd_key(self) -> str:
        """The secret of the shared link."""
        return self._draw("crowd")

    def join(self, key: str, worker: str = "") -> str | None:
        """A link's secret for one more person of the crowd, the same one for the same `worker`; None for a wrong key
        and when all places are taken."""
        if not self.config.crowd or not hmac.compare_digest(key.encode(), self.crowd_key().encode()):
            return None
        with self._transaction() as db:
            known = worker and db.execute("SELECT id FROM raters WHERE worker = ?", (worker,)).fetchone()
            if known:
                return self._token(known[0])
            if db.execute("SELECT count(*) FROM raters WHERE crowd").fetchone()[0] >= self.config.crowd:
                return None
            return self._token(self._add_rater(db, crowd=True, worker=worker or None))

    def rater(self, token: str) -> int | None:
        """Who has this link. The file is searched for its hash, so that time tells nothing about near misses."""
        with self._transaction() as db:
            found = db.execute("SELECT id FROM raters WHERE token = ?", (_hash(token),)).fetchone()
        return found and found[0]

    # ── what ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def next(self, rater: int) -> Shown | Finished:
        """What `rater` sees next: what was shown and not rated, else a new pair, kept for this rater for a while."""
        with self._transaction() as db:
            left = self._open_pairs(db, rater)
            waiting = db.execute("SELECT number FROM given WHERE rater = ? AND rated IS NULL", (rater,)).fetchone()
            number = waiting[0] if waiting else self._give(db, rater, left)
            if number is None:
                db.execute("UPDATE raters SET finished = 1 WHERE id = ?", (rater,))
                rated = db.execute("SELECT count(*) FROM given WHERE rater = ?", (rater,)).fetchone()[0]
                return Finished(self.config.completion or self._mac(f"code/{rater}").hex()[:12].upper(), rated)
            return self._shown(db, rater, number)

    def item(self, rater: int, number: int) -> Shown | None:
        """What `rater` was shown as `number`; None when that was nothing."""
        with self._transaction() as db:
            return self._shown(db, rater, number)

    def rate(self, rater: int, number: int, said: Said) -> bool:
        """Keeps what `rater` says of `number`, in place of what was said of it before; whether there is such a number.
        Raises UserError for what cannot be said."""
        self._check(said)
        with self._transaction() as db:
            row = db.execute("SELECT rated, choice, left_ok, right_ok FROM given WHERE rater = ? AND number = ?",
                             (rater, number)).fetchone()
            if row is None:
                return False
            if row[0] is None or Said(row[1], _bool(row[2]), _bool(row[3])) != said:
                db.execute("UPDATE given SET revisions = revisions + (rated IS NOT NULL), rated = ?, choice = ?, "
                           "left_ok = ?, right_ok = ? WHERE rater = ? AND number = ?",
                           (time.time(), said.choice, said.left_ok, said.right_ok, rater, number))
            return True

    # ── what came of it ───────────────────────────────────────────────────────────────────────────────────────────────

    def progress(self) -> tuple[int, int]:
        """(ratings that count towards those wanted, ratings wanted)."""
        with self._transaction() as db:
            counts = db.execute("SELECT (SELECT count(*) FROM given g WHERE g.item = i.id AND g.rated IS NOT NULL) "
                                "FROM items i WHERE i.model >= 0").fetchall()
        wanted = self.config.ratings
        return sum(min(count, wanted) for count, in counts), wanted * len(counts)

    def ratings(self) -> list[Rating]:
        """Everything that was said, by rater and number."""
        with self._transaction() as db:
            rows = db.execute("SELECT g.rater, r.worker, g.number, i.model, i.prompt, g.mine_left, g.choice, "
                              "g.left_ok, g.right_ok, g.since, g.rated, g.revisions FROM given g "
                              "JOIN items i ON i.id = g.item JOIN raters r ON r.id = g.rater WHERE g.rated IS NOT NULL "
                              "ORDER BY g.rater, g.number").fetchall()
        return [self._rating(*row) for row in rows]

    def _rating(self, rater: int, worker: str | None, number: int, model: int, prompt: str, mine_left: int, choice: int,
                left_ok: int | None, right_ok: int | None, since: float, rated: float, revisions: int) -> Rating:
        oks = (_bool(left_ok), _bool(right_ok))
        mine_ok, other_ok = oks if mine_left else oks[::-1]
        answer = len(self.config.choices) - 1 - choice if mine_left else choice
        return Rating(rater, worker or "", number, model, prompt, bool(mine_left), answer, mine_ok, other_ok,
                      round(rated - since, 1), revisions, rated)

    # ── inside a transaction ──────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, sets: Sets) -> None:
        """Makes the tables, or looks whether this study is in them; then makes links that are missing."""
        ours = {"fingerprint": sets.fingerprint(self.config), "secret": secrets.token_hex(32)}
        with self._transaction() as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'study'").fetchone():
                for statement in filter(str.strip, _TABLES.split(";")):
                    db.execute(statement)
                db.executemany("INSERT INTO study VALUES (?, ?)", ours.items())
                db.executemany("INSERT INTO items (model, prompt, turns) VALUES (?, ?, ?)",
                               [(p.model, p.prompt, json.dumps(plain(p.turns))) for p in (*sets.pairs, *sets.checks)])
            kept = dict(db.execute("SELECT name, value FROM study"))
            if kept["fingerprint"] != ours["fingerprint"]:
                raise UserError(f"{self.path}: holds another study (other answers, question, ratings or markdown); "
                                "choose another --out")
            self._secret = bytes.fromhex(kept["secret"])
            there = db.execute("SELECT count(*) FROM raters WHERE NOT crowd").fetchone()[0]
            for _ in range(there, self.config.raters):
                self._add_rater(db, crowd=False)

    def _add_rater(self, db: sqlite3.Connection, crowd: bool, worker: str | None = None) -> int:
        rater = db.execute("INSERT INTO raters (crowd, worker) VALUES (?, ?)", (crowd, worker)).lastrowid
        db.execute("UPDATE raters SET token = ? WHERE id = ?", (_hash(self._token(rater)), rater))
        return rater

    def _open_pairs(self, db: sqlite3.Connection, rater: int) -> list[tuple[int, str, int]]:
        """(item, prompt, how many people rate it) of each pair that needs ratings and has a prompt new to `rater`."""
        live = time.time() - 60 * self.config.lease_minutes
        return db.execute(
            "SELECT id, prompt, taken FROM (SELECT i.id, i.prompt, (SELECT count(*) FROM given g WHERE g.item = i.id "
            "AND (g.rated IS NOT NULL OR g.since > ?)) AS taken FROM items i WHERE i.model >= 0 AND i.prompt NOT IN "
            "(SELECT prompt FROM items JOIN given ON item = id WHERE rater = ?)) WHERE taken < ?",
            (live, rater, self.config.ratings)).fetchall()

    def _plan(self, db: sqlite3.Connection, rater: int, left: list[tuple[int, str, int]]) -> tuple[int, int, int]:
        """(pairs given, pairs to come, checks to come) of a rater."""
        of = dict(db.execute("SELECT model = ?, count(*) FROM given JOIN items ON item = id WHERE rater = ? GROUP BY 1",
                             (CHECK, rater)))
        pairs, checks = of.get(0, 0), of.get(1, 0)
        finished = db.execute("SELECT finished AND crowd FROM raters WHERE id = ?", (rater,)).fetchone()[0]
        coming = 0 if finished else len({prompt for _, prompt, _ in left})
        if self.config.items:
            coming = min(coming, max(0, self.config.items - pairs))
        return pairs, coming, max(0, self.config.checks - checks) if pairs + coming and not finished else 0

    def _give(self, db: sqlite3.Connection, rater: int, left: list[tuple[int, str, int]]) -> int | None:
        """Gives `rater` something new, its number; None when nothing is left."""
        pairs, coming, checks = self._plan(db, rater, left)
        if not coming and not checks:
            return None
        expected = db.execute("SELECT expected FROM raters WHERE id = ?", (rater,)).fetchone()[0]
        if expected is None:
            expected = coming
            db.execute("UPDATE raters SET expected = ? WHERE id = ?", (expected, rater))
        places = [1 + self._number(f"place/{rater}/{n}") % max(1, expected - 1) for n in range(self.config.checks)]
        due = sum(place <= pairs for place in places) > self.config.checks - checks
        if checks and (due or not coming):
            known = "SELECT id FROM items WHERE model = ? AND id NOT IN (SELECT item FROM given WHERE rater = ?)"
            choice = [(0, item) for item, in db.execute(known, (CHECK, rater))]
        else:
            choice = [(taken, item) for item, _, taken in left]     # those with fewest ratings first, in random order
        item = min(choice, key=lambda own: (own[0], self._number(f"order/{rater}/{own[1]}")))[1]
        number = 1 + db.execute("SELECT count(*) FROM given WHERE rater = ?", (rater,)).fetchone()[0]
        db.execute("INSERT INTO given (rater, number, item, mine_left, since) VALUES (?, ?, ?, ?, ?)",
                   (rater, number, item, self._number(f"side/{rater}/{item}") % 2, time.time()))
        return number

    def _shown(self, db: sqlite3.Connection, rater: int, number: int) -> Shown | None:
        row = db.execute("SELECT turns, mine_left, rated, choice, left_ok, right_ok FROM given JOIN items ON item = id "
                         "WHERE rater = ? AND number = ?", (rater, number)).fetchone()
        if row is None:
            return None
        turns, mine_left, rated, choice, left_ok, right_ok = row
        now = time.time()       # who comes back after the lease begins anew
        db.execute("UPDATE given SET since = ? WHERE rater = ? AND number = ? AND rated IS NULL AND since < ?",
                   (now, rater, number, now - 60 * self.config.lease_minutes))
        _, coming, checks = self._plan(db, rater, self._open_pairs(db, rater))
        total = db.execute("SELECT count(*) FROM given WHERE rater = ?", (rater,)).fetchone()[0] + coming + checks
        made = [Turn(**turn) for turn in json.loads(turns)]
        sides = [(turn.mine, turn.other) if mine_left else (turn.other, turn.mine) for turn in made]
        return Shown(number, total, tuple({"question": turn.question, "answers": list(side)}
                                          for turn, side in zip(made, sides)),
                     None if rated is None else Said(choice, _bool(left_ok), _bool(right_ok)))

    def _check(self, said: Said) -> None:
        if not 0 <= said.choice < len(self.config.choices):
            raise UserError(f"choice {said.choice}: must be from 0 to {len(self.config.choices) - 1}")
        wanted = self.config.question == "tulu"
        if any((ok is not None) != wanted for ok in (said.left_ok, said.right_ok)):
            raise UserError("left_ok, right_ok: " + ("both must be said" if wanted else "are not asked here"))

    # ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _token(self, rater: int) -> str:
        return self._draw(f"rater/{rater}")

    def _draw(self, what: str) -> str:
        """144 bits as 24 letters, digits, - and _."""
        return base64.urlsafe_b64encode(self._mac(what)[:18]).decode()

    def _number(self, what: str) -> int:
        return int.from_bytes(self._mac(what)[:8])

    def _mac(self, what: str) -> bytes:
        return hmac.digest(self._secret, what.encode(), "sha256")


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _bool(value: int | None) -> bool | None:
    return None if value is None else bool(value)
