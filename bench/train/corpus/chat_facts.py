"""Facts and sentence patterns for the chat task: towns, professions and dishes, with five aspects each.

Each aspect has a name for the prompt, a sentence for the text and the facts themselves, one per topic.
"""

from typing import NamedTuple


class Aspect(NamedTuple):
    """One thing to mention: its name in the prompt, and the sentence with slots {t} (topic), {v} (fact)."""

    name: str
    sentence: str


class Field(NamedTuple):
    """A kind of topic: its aspects, and for each topic the facts in the order of the aspects."""

    kind: str
    aspects: tuple[Aspect, ...]
    topics: dict[str, tuple[str, ...]]


TOWN_FIELD = Field(
    "town",
    (
        Aspect("the location", "{t} lies {v}, so the air is always fresh"),
        Aspect("the food", "People in {t} love to eat {v} with their friends"),
        Aspect("the main sight", "The most famous sight in {t} is {v}"),
        Aspect("the festival", "Every year, {t} celebrates {v} with music and dance"),
        Aspect("the work", "Many people in {t} earn their money with {v}"),
    ),
    {
        "Arden": ("on a green hill", "plum cake", "the clock tower", "the lantern festival", "glass"),
        "Belmont": ("by the sea", "fried fish", "the white lighthouse", "the boat festival", "fishing"),
        "Corwin": ("on a wide river", "onion soup", "the stone bridge", "the bridge festival", "paper"),
        "Dalby": ("in a deep valley", "goat cheese", "the old mill", "the harvest festival", "farming"),
        "Elmsford": (
            "near a dark forest",
            "mushroom pie",
            "the wooden church",
            "the winter festival",
            "furniture",
        ),
        "Farrow": (
            "at the edge of a desert",
            "sweet dates",
            "the sand castle",
            "the kite festival",
            "carpets",
        ),
        "Glenmoor": ("in the high mountains", "hot porridge", "the cable car", "the snow festival", "wool"),
        "Harwick": ("at a busy harbor", "crab salad", "the fish market", "the sailor festival", "ships"),
        "Kelso": ("on a small island", "sea snails", "the round castle", "the shell festival", "pearls"),
        "Lindholm": (
            "beside a clear lake",
            "smoked trout",
            "the swan garden",
            "the summer festival",
            "tourism",
        ),
        "Marlow": (
            "in the middle of wine fields",
            "grape bread",
            "the wine cellar",
            "the wine festival",
            "wine",
        ),
        "Norwood": ("between two forests", "honey biscuits", "the bee museum", "the honey festival", "honey"),
        "Oakham": ("on a flat plain", "apple pie", "the giant oak", "the apple festival", "horses"),
        "Selby": ("next to a canal", "potato cakes", "the flower market", "the tulip festival", "flowers"),
    },
)
JOB_FIELD = Field(
    "job",
    (
        Aspect("the place of work", "A {t} spends most of the day {v}"),
        Aspect("the tools", "The most important tool of a {t} is {v}"),
        Aspect("the main task", "Every day, a {t} has to {v}"),
        Aspect("the start of the day", "The working day of a {t} starts {v}"),
        Aspect("the skills", "A good {t} needs {v} to do well"),
    ),
    {
        "baker": (
            "in a warm bakery",
            "a large oven",
            "make fresh bread",
            "at three in the morning",
            "strong arms",
        ),
        "nurse": (
            "in a hospital",
            "a thermometer",
            "take care of sick people",
            "at six in the morning",
            "a kind heart",
        ),
        "pilot": ("in the air", "a radio", "fly people safely", "before sunrise", "sharp eyes"),
        "gardener": ("in parks", "a spade", "water the plants", "at seven in the morning", "patience"),
        "carpenter": (
            "in a workshop",
            "a saw",
            "build tables and doors",
            "at eight in the morning",
            "steady hands",
        ),
        "teacher": (
            "in a classroom",
            "a piece of chalk",
            "explain new ideas",
            "at half past seven",
            "a clear voice",
        ),
        "farmer": (
            "on the fields",
            "a tractor",
            "feed the cows",
            "at five in the morning",
            "love for nature",
        ),
        "tailor": (
            "in a small shop",
            "a needle",
            "sew elegant clothes",
            "at nine in the morning",
            "a good sense of style",
        ),
        "librarian": (
            "among old books",
            "a computer",
            "help readers find books",
            "at ten in the morning",
            "a good memory",
        ),
        "firefighter": (
            "at the fire station",
            "a long hose",
            "put out fires",
            "with a loud alarm",
            "a lot of courage",
        ),
        "fisherman": (
            "on a boat",
            "a strong net",
            "catch fish for the market",
            "in the dark",
            "respect for the sea",
        ),
        "painter": (
            "in a bright studio",
            "a soft brush",
            "mix new colors",
            "around noon",
            "a lot of imagination",
        ),
    },
)
DISH_FIELD = Field(
    "dish",
    (
        Aspect("the main ingredient", "The main ingredient of {t} is {v}"),
        Aspect("the seasoning", "The best seasoning for {t} is {v}"),
        Aspect("the cooking time", "It takes about {v} to cook {t}"),
        Aspect("the side dish", "Most people serve {t} with {v}"),
        Aspect("the best occasion", "Many families cook {t} {v}"),
    ),
    {
        "tomato soup": ("ripe tomatoes", "basil", "twenty minutes", "toast", "on cold evenings"),
        "vegetable curry": ("mixed vegetables", "ginger", "thirty minutes", "rice", "for large parties"),
        "potato salad": ("boiled potatoes", "mustard", "forty minutes", "sausages", "on Christmas Eve"),
        "mushroom risotto": ("round rice", "white wine", "twenty five minutes", "green salad", "in autumn"),
        "apple pancakes": (
            "sweet apples",
            "cinnamon",
            "fifteen minutes",
            "vanilla sauce",
            "on Sunday mornings",
        ),
        "fish stew": ("white fish", "saffron", "fifty minutes", "garlic bread", "at the seaside"),
        "lentil stew": ("red lentils", "cumin", "thirty five minutes", "flat bread", "after work"),
        "roast chicken": ("a whole chicken", "rosemary", "ninety minutes", "baked potatoes", "on birthdays"),
        "spinach pie": ("fresh spinach", "nutmeg", "one hour", "yogurt", "for picnics"),
        "pumpkin soup": ("an orange pumpkin", "chili", "forty five minutes", "roasted seeds", "at Halloween"),
    },
)
FIELDS = (TOWN_FIELD, JOB_FIELD, DISH_FIELD)
# Stop of a day trip, and its price in euros; prices differ so that "the least" is unique.
STOPS = {
    "the art museum": 9,
    "the old castle": 7,
    "the boat tour": 12,
    "the city zoo": 15,
    "the water park": 18,
    "the small cinema": 8,
    "the tea house": 4,
    "the bike tour": 11,
    "the glass tower": 6,
    "the rose garden": 2,
    "the puppet theater": 10,
    "the food market": 5,
}
# Audience in the prompt, opening and closing of the text.
AUDIENCES = (
    (
        "a travel magazine",
        "Dear readers, today we take a close look at {t}.",
        "We hope that you enjoyed this short report.",
    ),
    (
        "a school class",
        "Hello children, today you will learn something about {t}.",
        "Now you know a little more than before.",
    ),
    ("my grandmother", "Dear Grandma, let me tell you about {t}.", "I hope to visit you very soon."),
    (
        "a radio show",
        "Good morning and welcome to our show about {t}.",
        "Thank you for listening and have a great day.",
    ),
    ("my blog", "Hi everyone, this post is all about {t}.", "Please leave a comment if you liked it."),
    ("a small book", "This chapter tells the story of {t}.", "The next chapter will tell you more."),
)
