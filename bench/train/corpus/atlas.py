"""Question answering: two facts on an entry of a small fixed world, or a comparison of two entries.

Training repeats the facts; held-out questions are combinations and phrasings that it never has.
"""

from collections.abc import Mapping
from random import Random
from typing import NamedTuple

from bench.train.corpus.atlas_facts import ANIMALS, COUNTRIES, ELEMENTS, Animal, Country, Element
from bench.train.corpus.dialogue import Dialogue, capital, contains

Entry = Animal | Country | Element


class Attribute(NamedTuple):
    """How to ask for one fact, and the predicate that states it."""

    asks: tuple[str, str]
    states: str


class Measure(NamedTuple):
    """How to compare two entries: the topic, the predicate with the number, the question and the verdict."""

    topic: str
    states: str
    ask: tuple[str, str]
    more: str


ANIMAL_FACTS = {
    "home": Attribute(("where does {e} live", "what is the home of {e}"), "lives in the {v}"),
    "food": Attribute(("what does {e} eat", "what is the food of {e}"), "eats {v}"),
    "years": Attribute(("how long does {e} live", "how old does {e} get"), "lives for about {v} years"),
    "kilograms": Attribute(("how heavy is {e}", "how much does {e} weigh"), "weighs about {v} kilograms"),
    "speed": Attribute(
        ("how fast is {e}", "what is the top speed of {e}"), "moves at up to {v} kilometers per hour"
    ),
}
COUNTRY_FACTS = {
    "capital": Attribute(
        ("what is the capital of {e}", "which city is the capital of {e}"), "has the capital {v}"
    ),
    "language": Attribute(
        ("what language do people speak in {e}", "what is the main language of {e}"),
        "has {v} as its main language",
    ),
    "currency": Attribute(
        ("how do people pay in {e}", "what is the currency of {e}"), "uses the {v} as its currency"
    ),
    "food": Attribute(
        ("what food is {e} known for", "what do people like to eat in {e}"), "is known for {v}"
    ),
    "millions": Attribute(
        ("how many people live in {e}", "what is the population of {e}"), "has about {v} million people"
    ),
}
ELEMENT_FACTS = {
    "symbol": Attribute(("what is the symbol of {e}", "which symbol stands for {e}"), "has the symbol {v}"),
    "number": Attribute(
        ("what is the atomic number of {e}", "which number does {e} have"), "has the atomic number {v}"
    ),
    "look": Attribute(("what color is {e}", "what does {e} look like"), "looks {v}"),
    "use": Attribute(("what is {e} used for", "what do people need {e} for"), "is used for {v}"),
}
MEASURES = {
    "years": Measure(
        "how long each animal lives",
        "lives for about {v} years",
        ("Which animal lives longer,", "Which one gets older,"),
        "lives longer",
    ),
    "kilograms": Measure(
        "how much each animal weighs",
        "weighs about {v} kilograms",
        ("Which animal is heavier,", "Which one weighs more,"),
        "is heavier",
    ),
    "speed": Measure(
        "how fast each animal is",
        "moves at up to {v} kilometers per hour",
        ("Which animal is faster,", "Which one moves faster,"),
        "is faster",
    ),
    "millions": Measure(
        "how many people live there",
        "has about {v} million people",
        ("Which country has more people,", "Which country has the larger population,"),
        "has more people",
    ),
    "number": Measure(
        "the atomic numbers",
        "has the atomic number {v}",
        ("Which element has the higher atomic number,", "Which element comes later in the periodic table,"),
        "has the higher atomic number",
    ),
}
LEADS = (
    "",
    "",
    "Please tell me, ",
    "I would like to know, ",
    "Quick question: ",
    "Can you tell me, ",
    "Explain: ",
    "For school: ",
)
TAILS = ("I need this for school.", "Please explain.", "My friend asked me.", "I am curious.", "")


def label(entry: Entry) -> str:
    """The entry as a noun phrase: animals take the article, countries and elements do not."""
    return f"the {entry.name}" if isinstance(entry, Animal) else entry.name


def describe(entry: Entry) -> str:
    """What kind of thing the entry is, as a full predicate."""
    if isinstance(entry, Animal):
        return f"is a {entry.group} from the {entry.home}"
    if isinstance(entry, Country):
        return f"is a country in {entry.continent} with the capital {entry.capital}"
    return f"is a {entry.state} with the symbol {entry.symbol}"


def facts_of(entry: Entry) -> Mapping[str, Attribute]:
    """The attributes one can ask about for this kind of entry."""
    if isinstance(entry, Animal):
        return ANIMAL_FACTS
    return COUNTRY_FACTS if isinstance(entry, Country) else ELEMENT_FACTS


def state(entry: Entry, key: str) -> str:
    """The predicate that states the entry's fact, such as "eats bamboo"."""
    return facts_of(entry)[key].states.format(v=getattr(entry, key))


def _ask(rng: Random, question: str) -> str:
    lead = rng.choice(LEADS)
    tail = rng.choice(TAILS)
    return (lead + question if lead else capital(question)) + (f" {tail}" if tail else "")


def _two_facts(rng: Random) -> Dialogue:
    """Two attributes of one entry, and a closing sentence on a third."""
    pools: tuple[tuple[Entry, ...], ...] = (ANIMALS, COUNTRIES, ELEMENTS)
    entry = rng.choice(rng.choice(pools))
    first, second = rng.sample(list(facts_of(entry)), 2)
    name = label(entry)
    ask_1 = rng.choice(facts_of(entry)[first].asks).format(e=name)
    ask_2 = rng.choice(facts_of(entry)[second].asks).format(
        e="this country" if isinstance(entry, Country) else "it"
    )
    fact_1, fact_2 = state(entry, first), state(entry, second)
    answer = (
        f"You want to know two things about {name}. First, {name} {fact_1}. Second, {name} {fact_2}. "
        f"In general, {name} {describe(entry)}. So the short answer is that {name} {fact_1} and {fact_2}."
    )
    check = contains([f"First, {name} {fact_1}", f"Second, {name} {fact_2}"])
    return Dialogue("qa", (_ask(rng, f"{ask_1} and {ask_2}?"),), (answer,), (check,))


def _compare(rng: Random) -> Dialogue:
    """Which of two entries has more of something; the answer states both numbers first."""
    key = rng.choice(("years", "kilograms", "speed", "millions", "millions", "number"))
    pool: tuple[Entry, ...] = (
        ANIMALS if key in ANIMAL_FACTS else COUNTRIES if key in COUNTRY_FACTS else ELEMENTS
    )
    first, second = rng.sample(pool, 2)
    measure, value_1, value_2 = MEASURES[key], getattr(first, key), getattr(second, key)
    more, less = (first, second) if value_1 > value_2 else (second, first)
    question = f"{rng.choice(measure.ask)} {label(first)} or {label(second)}?"
    answer = (
        f"To compare them, we look at {measure.topic}. {capital(label(first))} "
        f"{measure.states.format(v=value_1)}. "
        f"{capital(label(second))} {measure.states.format(v=value_2)}. The number {getattr(more, key)} is "
        f"larger than {getattr(less, key)}. "
        f"So {label(more)} {measure.more} than {label(less)}. {capital(label(more))} {describe(more)}, and "
        f"{label(less)} {describe(less)}."
    )
    check = contains(
        [f"So {label(more)} {measure.more} than {label(less)}"],
        forbid=[f"{label(less)} {measure.more} than {label(more)}"],
    )
    lead, tail = rng.choice(("", "", "Compare: ", "Quick question: ", "Explain: ")), rng.choice(TAILS)
    return Dialogue("qa", (lead + question + (f" {tail}" if tail else ""),), (answer,), (check,))


def make(rng: Random) -> Dialogue:
    """One question; half of them are comparisons."""
    return rng.choice((_two_facts, _compare))(rng)
