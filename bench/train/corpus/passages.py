"""Retrieval: three or four numbered passages and a question; the answer names and quotes one passage."""

from random import Random

from bench.train.corpus.dialogue import Dialogue, contains
from bench.train.corpus.lexicon import DAYS, NAMES, SURNAMES, TOWNS

SUBJECTS = (
    "museum",
    "library",
    "school",
    "hotel",
    "theater",
    "station",
    "factory",
    "garden",
    "castle",
    "market hall",
    "hospital",
    "harbor",
)
FAMES = (
    "its glass roof",
    "its old clock",
    "its tall tower",
    "its red walls",
    "its quiet rooms",
    "its round windows",
    "its stone stairs",
    "its green doors",
    "its fine paintings",
    "its warm light",
)
BUILDERS = (
    "a rich merchant",
    "a young architect",
    "a group of farmers",
    "the city council",
    "two brothers",
    "a famous queen",
)
# Attribute: predicate with a slot for the value, questions about "{it}".
ATTRIBUTES = {
    "year": ("was opened in {}", ("When was {it} opened?", "In which year was {it} opened?")),
    "boss": ("is led by {}", ("Who leads {it}?", "What is the name of the person who leads {it}?")),
    "rooms": ("has {} rooms", ("How many rooms does {it} have?", "What is the number of rooms in {it}?")),
    "price": (
        "charges {} euros for a visit",
        ("How much does {it} charge for a visit?", "What is the price of a visit to {it}?"),
    ),
    "closed": ("is closed on {}", ("On which day is {it} closed?", "When is {it} closed?")),
    "fame": ("is famous for {}", ("What is {it} famous for?", "Why is {it} famous?")),
    "builder": ("was built by {}", ("Who built {it}?", "By whom was {it} built?")),
}
ASKS = (
    "Answer from the passages. ",
    "Use the passages to answer the question. ",
    "Read these passages. ",
    "Which passage answers this? ",
)


def _value(rng: Random, attribute: str) -> str:
    if attribute == "year":
        return str(rng.randint(1900, 1999))
    if attribute == "boss":
        return f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    if attribute in ("rooms", "price"):
        return str(rng.randint(11, 99) if attribute == "rooms" else rng.randint(2, 19))
    return rng.choice({"closed": DAYS, "fame": FAMES, "builder": BUILDERS}[attribute])


def _predicate(rng: Random, attribute: str) -> str:
    return ATTRIBUTES[attribute][0].format(_value(rng, attribute))


def _others(places: list[str]) -> str:
    return ", ".join(places[:-1]) + " and " + places[-1]


def make(rng: Random) -> Dialogue:
    """One question on three or four passages of two facts each; exactly one passage has the answer."""
    count = rng.choice((3, 3, 4))
    places = [
        f"the {kind} in {town}"
        for kind, town in zip(rng.sample(SUBJECTS, count), rng.sample(TOWNS, count), strict=True)
    ]
    keys = [rng.sample(list(ATTRIBUTES), 2) for _ in range(count)]
    facts = [[_predicate(rng, key) for key in pair] for pair in keys]
    texts = [f"[{i + 1}] T{places[i][1:]} {facts[i][0]}. It {facts[i][1]}." for i in range(count)]
    target, which = rng.randrange(count), rng.randrange(2)
    place, fact = places[target], facts[target][which]
    question = rng.choice(ATTRIBUTES[keys[target][which]][1]).format(it=place)
    prompt = f"{rng.choice(ASKS)}{' '.join(texts)} Question: {question}"
    quote = f"{'It' if which else 'T' + place[1:]} {fact}."
    others = _others([other for other in places if other != place])
    answer = (
        f'The answer is in passage [{target + 1}], which is about {place}. The passage says: "{quote}" '
        f"This means that {place} {fact}. The other passages are about {others}, so they do not answer the "
        "question."
    )
    return Dialogue("rag", (prompt,), (answer,), (contains([f"passage [{target + 1}]", f"{place} {fact}"]),))
