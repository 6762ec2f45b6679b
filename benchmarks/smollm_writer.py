"""SmolLM2 as profile writer: how many of its replies can be read as the profile that the study's prompt asks for."""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from harness import arguments, run, seconds, write
from material import amazon_examples, smollm2

from xrec_repro.lm.load import shown_model
from xrec_repro.profiles import local_model
from xrec_repro.profiles.chat import LABELS, ChatBackend, read_answer
from xrec_repro.profiles.prompts import system_prompt
from xrec_repro.profiles.records import ItemText, UserEntry, UserText
from xrec_repro.profiles.replies import Completion
from xrec_repro.seeding import numpy_rng

COUNT = 12  # profiles of books, and as many of users
ATTEMPTS = 2  # the question, and once more with what was wrong
BOOKS = 3  # of a user's history: the first of whom so many texts were released
LONGEST = 100  # new tokens: a profile of 50 words takes some 80
SHOWN = 200  # letters of a reply


class Listener(local_model.LocalModel):
    """The local model, and what it replied: the number of the attempt, and the reply."""

    heard: list[tuple[int, Completion]] = []  # noqa: RUF012 (of the one model of this process)

    def complete(self, asked: Sequence[tuple[list[int], Sequence[object]]]) -> list[Completion]:
        """Answer as ever, and remember."""
        replies = super().complete(asked)
        self.heard.extend((int(names[-1]), reply) for (_, names), reply in zip(asked, replies, strict=True))
        return replies


def records(count: int) -> dict[str, list[Any]]:
    """Draw books and users of the released texts, which tell titles and profiles of books, but no review or rating."""
    histories: dict[str, list[UserEntry]] = defaultdict(list)
    examples = amazon_examples()
    for one in examples:
        histories[one.user_id].append(UserEntry(one.title, one.item_profile, None, None))
    rng = numpy_rng(0, "smollm_writer")
    titles = rng.choice(sorted({one.title for one in examples}), count, replace=False)
    known = sorted(user for user, entries in histories.items() if len(entries) >= BOOKS)
    users = rng.choice(known, count, replace=False)
    return {
        "item": [ItemText(str(title), None, None, None, ()) for title in titles],
        "user": [UserText(tuple(histories[user][:BOOKS])) for user in users],
    }


def ask(backend: ChatBackend, kind: str, known: list[Any], words: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Have profiles of one kind written; return what came of them, and some replies."""
    Listener.heard.clear()
    before, written = Counter(backend.counts), []
    write_all = backend.item_profiles if kind == "item" else backend.user_profiles
    took = seconds(lambda: written.extend(write_all(known)))
    counts = backend.counts - before
    told = [{"role": "system", "content": system_prompt("amazon", kind, words)}]
    problems = [(attempt, read_answer(kind, reply, words, told)[1], reply) for attempt, reply in Listener.heard]
    found = {
        "profile of": "a book" if kind == "item" else f"a {LABELS[kind]}",
        "asked for": len(known),
        "first replies that can be used": sum(not problem for attempt, problem, _ in problems if attempt == 0),
        "second replies that can be used": sum(not problem for attempt, problem, _ in problems if attempt == 1),
        "second replies": sum(attempt == 1 for attempt, _, _ in problems),
        "profiles in the end": sum(map(bool, written)),
        "cut to the limit of words": counts["cut"],
        "replies cut off": sum(reply.truncated for _, _, reply in problems),
        "seconds a reply": round(took / counts["asked"], 2),
    }
    shown = [
        {"profile of": found["profile of"], "attempt": attempt + 1, "problem": problem or None, "reply": _short(reply)}
        for attempt, problem, reply in problems[:3] + problems[-2:]
    ]
    return found, shown


def _short(reply: Completion) -> str:
    text = " ".join(reply.text.split()).replace("|", "/")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


def main(args: argparse.Namespace) -> None:
    """Ask for all profiles through the chat backend, write down what came of them."""
    model, config = smollm2()
    count, profiles = 2 if args.smoke else COUNT, config["defaults"]["profiles"]
    settings = profiles["chat"] | {"model": str(model), "attempts": ATTEMPTS, "max_unanswered": 1.0}
    settings |= {"concurrency": count, "max_new_tokens": 8 if args.smoke else LONGEST}
    local_model.LocalModel = Listener
    known = records(count)
    with tempfile.TemporaryDirectory() as cache:
        backend = ChatBackend(settings, "book", cache, profiles["max_words"], device="cpu")
        found = {kind: ask(backend, kind, of_kind, profiles["max_words"]) for kind, of_kind in known.items()}
    facts = {
        "model": shown_model(str(model), None, model),
        "settings": {key: settings[key] for key in ("temperature", "max_new_tokens", "attempts", "concurrency")},
        "what came of it": [one for one, _ in found.values()],
        "some replies": [reply for _, shown in found.values() for reply in shown],
    }
    for row in facts["what came of it"]:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    data = f"{count} books by title and {count} users by {BOOKS} books of the released "
    write(args, "smollm_writer", {"data": f"{data}Amazon texts, which hold no reviews", "facts": facts})


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    return arguments(__doc__, rounds=1)


if __name__ == "__main__":
    run(main, options())
