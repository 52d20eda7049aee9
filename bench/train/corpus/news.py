"""Summarization: local news of six or seven sentences, and a summary of four with the key facts."""

from random import Random
from typing import NamedTuple

from bench.train.corpus.dialogue import Dialogue, contains
from bench.train.corpus.lexicon import DAYS, NAMES, SURNAMES, TOWNS


class Story(NamedTuple):
    """One kind of news: sentences with slots, and the values of some slots.

    Slots: town, day, number, cause, plan, role, person.
    """

    lead: str
    number: str
    details: tuple[str, ...]
    causes: tuple[str, ...]
    plans: tuple[str, ...]
    role: str


STORIES = (
    Story(
        "a strong storm hit {town}",
        "{number} houses were damaged",
        (
            "The wind was loud and lasted all night.",
            "Many streets were full of branches.",
            "Most shops stayed closed in the morning.",
        ),
        ("warm air from the south", "a sudden change of wind", "very low pressure over the sea"),
        ("repair the roofs", "plant new trees", "build a higher wall"),
        "mayor",
    ),
    Story(
        "a new school opened in {town}",
        "{number} children started there",
        (
            "The rooms are bright and have large windows.",
            "Parents took many photos.",
            "A small band played in the yard.",
        ),
        ("the growing number of families", "the bad state of the old school", "a gift from a rich family"),
        ("add a sports hall", "hire more teachers", "open a school garden"),
        "head teacher",
    ),
    Story(
        "a fire broke out in a factory in {town}",
        "{number} workers left the building safely",
        (
            "Black smoke could be seen from far away.",
            "Nobody was badly hurt.",
            "The road next to the factory was closed.",
        ),
        ("a broken machine", "an old cable", "a mistake in the kitchen"),
        ("check every machine", "train the workers", "move to a new building"),
        "fire chief",
    ),
    Story(
        "the football team of {town} won the cup",
        "{number} fans watched the final",
        (
            "The first half was slow and quiet.",
            "The winning goal came in the last minute.",
            "People danced in the streets.",
        ),
        ("a very strong defense", "the hard training in winter", "the fast new players"),
        ("play in a higher league", "build a larger stadium", "train more young players"),
        "coach",
    ),
    Story(
        "thieves broke into a museum in {town}",
        "{number} old coins were stolen",
        ("The alarm did not ring that night.", "A guard saw a white van.", "The museum is closed for now."),
        ("an open window", "a broken lock", "a missing camera"),
        ("offer a reward", "buy better cameras", "hire more guards"),
        "police officer",
    ),
    Story(
        "a music festival took place in {town}",
        "{number} bands played on the stage",
        (
            "The weather was sunny and warm.",
            "Visitors came from many countries.",
            "The food stands were busy until midnight.",
        ),
        ("the low ticket prices", "the famous guests", "the good weather"),
        ("return next summer", "add a second stage", "invite bands from abroad"),
        "organizer",
    ),
    Story(
        "workers found an ancient ship near {town}",
        "{number} clay pots were on board",
        (
            "The wood was covered with mud.",
            "Experts are very excited.",
            "The place is now closed to visitors.",
        ),
        ("the low water of the river", "the work on a new bridge", "a long dry summer"),
        ("show the ship in a museum", "search the whole river", "write a book about it"),
        "professor",
    ),
    Story(
        "a new train line opened in {town}",
        "{number} passengers took the first train",
        (
            "The trip was smooth and quiet.",
            "The old bus will stop soon.",
            "Tickets were free on the first day.",
        ),
        ("the heavy traffic on the roads", "the wish for cleaner air", "the high price of fuel"),
        ("run trains at night", "build two more stations", "lower the ticket price"),
        "engineer",
    ),
)
CAUSE_LINES = (
    "The reason was {cause}.",
    "Experts say that the reason was {cause}.",
    "It happened because of {cause}.",
)
PLAN_LINES = (
    "The {role}, {person}, wants to {plan}.",
    '"We will {plan}," said the {role}, {person}.',
    "The {role}, {person}, plans to {plan}.",
)
NUMBER_LINES = ("In total, {number}.", "Reports say that {number}.", "According to the news, {number}.")
LEAD_LINES = ("On {day}, {lead}.", "{Lead} on {day}.")
ASKS = (
    "Summarize: ",
    "Summarize this text: ",
    "Give me a short summary: ",
    "Please summarize this article: ",
    "What are the key facts? ",
)


def make(rng: Random) -> Dialogue:
    """One article and its summary: what, where and when, how many and why, and who plans what."""
    story = rng.choice(STORIES)
    town, day, person = rng.choice(TOWNS), rng.choice(DAYS), f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    cause, plan = rng.choice(story.causes), rng.choice(story.plans)
    number, lead = story.number.format(number=rng.randint(11, 99)), story.lead.format(town=town)
    first = rng.choice(LEAD_LINES).format(day=day, lead=lead, Lead=lead[:1].upper() + lead[1:])
    body = [
        rng.choice(NUMBER_LINES).format(number=number),
        rng.choice(CAUSE_LINES).format(cause=cause),
        rng.choice(PLAN_LINES).format(role=story.role, person=person, plan=plan),
        *rng.sample(story.details, rng.choice((2, 2, 3))),
    ]
    rng.shuffle(body)
    prompt = rng.choice(ASKS) + " ".join([first, *body])
    answer = (
        f"The text says that {lead} on {day}. It reports that {number}, and the reason was {cause}. "
        f"The {story.role}, {person}, now plans to {plan}. "
        f"In short, the place is {town}, the day is {day}, and the plan is to {plan}."
    )
    facts = [f"{lead} on {day}", number, cause, f"{story.role}, {person}", plan]
    return Dialogue("summarization", (prompt,), (answer,), (contains(facts),))
