"""Two-turn chat: a request for a short text on facts of a table, then a request that refers back to it."""

from random import Random
from typing import Any

from bench.train.corpus.chat_facts import AUDIENCES, FIELDS, STOPS
from bench.train.corpus.dialogue import Dialogue, capital, contains
from bench.train.corpus.lexicon import NAMES, TOWNS

WRITES = (
    "Write a short text about {t} for {a}.",
    "Please write about {t} for {a}.",
    "I need a short text about {t} for {a}.",
    "Can you describe {t} for {a}?",
    "Help me write about {t} for {a}.",
)
MENTIONS = (
    "Mention {x}, {y} and {z}.",
    "Talk about {x}, {y} and {z}.",
    "It should cover {x}, {y} and {z}.",
    "Include {x}, {y} and {z}.",
)
LISTS = (
    "Now give me the same as a list of three points.",
    "Turn it into a list of three points.",
    "Make a list of three points from it.",
)
SHORTER = ("Shorten it to one sentence.", "Now say it in one sentence.", "Can you say this in one sentence?")
LETTERS = (
    "Rewrite it as a short email to {n}.",
    "Now make it an email to {n}.",
    "Turn this into an email to {n}.",
)
PLANS = (
    "Plan a day in {t} for {n}.",
    "Make a plan for a day in {t} for {n}.",
    "{n} wants to spend a day in {t}. Make a plan.",
)
STOP_LINES = (
    "Include {x}, {y} and {z}.",
    "The stops are {x}, {y} and {z}.",
    "We want to see {x}, {y} and {z}.",
)
LEAST = (
    "Which of these costs the least?",
    "Which stop is the cheapest?",
    "What is the cheapest part of the plan?",
)
MOST = (
    "Which of these costs the most?",
    "Which stop is the most expensive?",
    "What is the most expensive part of the plan?",
)

Turn = tuple[str, str, dict[str, Any]]


def _follow_up(rng: Random, topic: str, names: list[str], lines: list[str], facts: list[str]) -> Turn:
    """The second turn after a text: the same as a list, one sentence or an email, or one point repeated."""
    kind = rng.randrange(4)
    if kind == 0:
        points = "\n".join(f"- {capital(name)}: {line}." for name, line in zip(names, lines, strict=True))
        return rng.choice(LISTS), points, contains(facts, form="list")
    if kind == 1:
        text = (
            f"In one sentence, the text about {topic} names {facts[0]} as {names[0]}, "
            f"{facts[1]} as {names[1]} and {facts[2]} as {names[2]}."
        )
        return rng.choice(SHORTER), text, contains(facts, form="sentence")
    if kind == 2:
        friend = rng.choice(NAMES)
        text = (
            f"Dear {friend},\nI want to tell you about {topic}. "
            + " ".join(f"{line}." for line in lines)
            + "\nBest wishes from your friend."
        )
        return rng.choice(LETTERS).format(n=friend), text, contains([f"Dear {friend}", *facts], form="email")
    pick = rng.randrange(3)
    text = f"You asked again about {names[pick]}. {lines[pick]}. In short, the key words are: {facts[pick]}."
    ask = rng.choice(
        ("What did you say about {x}?", "Tell me again about {x}.", "Repeat the part about {x}.")
    )
    return ask.format(x=names[pick]), text, contains([lines[pick]])


def _text(rng: Random) -> Dialogue:
    """A text on one topic for one audience that covers three aspects in the order of the prompt."""
    field = rng.choice(FIELDS)
    topic = rng.choice(list(field.topics))
    chosen = rng.sample(range(len(field.aspects)), 3)
    names = [field.aspects[i].name for i in chosen]
    facts = [field.topics[topic][i] for i in chosen]
    lines = [field.aspects[i].sentence.format(t=topic, v=field.topics[topic][i]) for i in chosen]
    lines = [capital(line) for line in lines]
    shown = f"the work of a {topic}" if field.kind == "job" else topic
    audience, opening, closing = rng.choice(AUDIENCES)
    x, y, z = names
    ask = f"{rng.choice(WRITES).format(t=shown, a=audience)} {rng.choice(MENTIONS).format(x=x, y=y, z=z)}"
    text = f"{opening.format(t=shown)} {lines[0]}. {lines[1]}. {lines[2]}. {closing}"
    ask_2, text_2, check_2 = _follow_up(rng, shown, names, lines, facts)
    return Dialogue("mt_bench", (ask, ask_2), (text, text_2), (contains(lines), check_2))


def _plan(rng: Random) -> Dialogue:
    """A day plan of three stops with prices, then a question on the cheapest or most expensive stop."""
    town, friend = rng.choice(TOWNS), rng.choice(NAMES)
    x, y, z = rng.sample(list(STOPS), 3)
    a, b, c = STOPS[x], STOPS[y], STOPS[z]
    ask = f"{rng.choice(PLANS).format(t=town, n=friend)} {rng.choice(STOP_LINES).format(x=x, y=y, z=z)}"
    text = (
        f"Here is a plan for the day of {friend} in {town}. In the morning, {friend} goes to {x}, which "
        f"costs {a} euros. "
        f"At noon, {friend} goes to {y}, which costs {b} euros. In the evening, {friend} goes to {z}, "
        f"which costs {c} euros. "
        f"The first two stops cost {a} + {b} = {a + b} euros. With the last stop, it is {a + b} + {c} = "
        f"{a + b + c} euros."
    )
    check = contains(
        [
            f"{x}, which costs {a} euros",
            f"{y}, which costs {b} euros",
            f"{z}, which costs {c} euros",
            f"= {a + b + c} euros",
        ]
    )
    low = rng.random() < 0.5
    word = "least" if low else "most"
    best = (min if low else max)((x, y, z), key=STOPS.__getitem__)
    others = [stop for stop in (x, y, z) if stop != best]
    text_2 = (
        f"The prices are {a} euros, {b} euros and {c} euros. {capital(best)} costs the {word}, because it "
        f"costs only {STOPS[best]} euros. "
        f"The other stops are {others[0]} for {STOPS[others[0]]} euros and {others[1]} for "
        f"{STOPS[others[1]]} euros."
    )
    text_2 = text_2 if low else text_2.replace("costs only", "costs")
    check_2 = contains([f"{best} costs the {word}"], forbid=[f"{other} costs the {word}" for other in others])
    return Dialogue("mt_bench", (ask, rng.choice(LEAST if low else MOST)), (text, text_2), (check, check_2))


def make(rng: Random) -> Dialogue:
    """One two-turn chat: three in four are texts, the others day plans."""
    return _plan(rng) if rng.random() < 0.25 else _text(rng)
