"""Math: word problems of two or three steps; each step is a small sum, difference, product or quotient.

Numbers stay small (factors up to 9, totals of about 100 at most), so a tiny model can learn every step.
"""

from random import Random

from bench.train.corpus.dialogue import Dialogue, final_number
from bench.train.corpus.lexicon import MEN, NAMES, WOMEN

ITEMS = (
    "apples",
    "pears",
    "books",
    "stamps",
    "coins",
    "shells",
    "pencils",
    "cards",
    "eggs",
    "stones",
    "cookies",
    "marbles",
)
BOXES = ("bags", "boxes", "baskets", "packs", "jars", "crates")
PLANTS = ("roses", "tulips", "carrots", "beans", "trees", "onions")
GOODS = ("pens", "cups", "hats", "balls", "lamps", "maps", "candles", "brushes")
PLACES = ("at school", "at home", "in the garden", "at the market", "in the kitchen", "in the park")
ASKS = (
    "",
    "",
    "Solve this problem step by step: ",
    "Please work this out: ",
    "Here is a math problem. ",
    "Think step by step. ",
)


def _name(rng: Random) -> tuple[str, str]:
    name = rng.choice(NAMES)
    return name, ("She" if name in WOMEN else "He")


def _other(rng: Random, name: str) -> str:
    return rng.choice([other for other in MEN + WOMEN if other != name])


def _bags(rng: Random) -> tuple[str, str, int]:
    name, pronoun = _name(rng)
    friend, item, box = _other(rng, name), rng.choice(ITEMS), rng.choice(BOXES)
    have, boxes, each = rng.randint(2, 20), rng.randint(2, 9), rng.randint(2, 9)
    bought = boxes * each
    total = have + bought
    given = rng.randint(2, min(15, total - 1))
    verb = rng.choice(("buys", "finds", "gets"))
    prompt = (
        f"{name} has {have} {item} {rng.choice(PLACES)}. {pronoun} {verb} {boxes} {box} with {each} {item} "
        "each. "
        f"Then {name} gives {given} {item} to {friend}. How many {item} does {name} have now?"
    )
    answer = (
        f"First, we count the new {item}. There are {boxes} {box} with {each} {item} each, so {boxes} * "
        f"{each} = {bought}. "
        f"Next, we add the {have} {item} that {name} had at the start, so {have} + {bought} = {total}. "
        f"Finally, {name} gives {given} {item} to {friend}, so {total} - {given} = {total - given}. "
        f"{name} has {total - given} {item} now. The answer is {total - given}."
    )
    return prompt, answer, total - given


def _shop(rng: Random) -> tuple[str, str, int]:
    name, pronoun = _name(rng)
    first, second = rng.sample(GOODS, 2)
    count_a, price_a, count_b, price_b = (rng.randint(2, 7) for _ in range(4))
    cost_a, cost_b = count_a * price_a, count_b * price_b
    total = cost_a + cost_b
    prompt = (
        f"{name} goes to a shop. {pronoun} buys {count_a} {first} for {price_a} euros each and {count_b} "
        f"{second} "
        f"for {price_b} euros each. {rng.choice(('How much does', 'How many euros does'))} {name} pay in "
        "total?"
    )
    answer = (
        f"First, we find the price of the {first}. {name} buys {count_a} {first} for {price_a} euros each, "
        f"so {count_a} * {price_a} = {cost_a}. "
        f"Next, we find the price of the {second}. {name} buys {count_b} {second} for {price_b} euros each, "
        f"so {count_b} * {price_b} = {cost_b}. "
        f"Finally, we add both prices, so {cost_a} + {cost_b} = {total}. {name} pays {total} euros. The "
        f"answer is {total}."
    )
    return prompt, answer, total


def _share(rng: Random) -> tuple[str, str, int]:
    name, pronoun = _name(rng)
    item = rng.choice(ITEMS)
    friends, each, extra = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 15)
    total = friends * each
    prompt = (
        f"A teacher has {total} {item} and shares them equally among {friends} children. {name} is one of "
        "the children. "
        f"{pronoun} already had {extra} {item} {rng.choice(PLACES)}. How many {item} does {name} have "
        f"{rng.choice(('now', 'in total'))}?"
    )
    answer = (
        f"First, we share the {item}. There are {total} {item} for {friends} children, so {total} / "
        f"{friends} = {each}. "
        f"This means that every child gets {each} {item}. "
        f"Next, we add the {extra} {item} that {name} already had, so {extra} + {each} = {extra + each}. "
        f"{name} has {extra + each} {item} now. The answer is {extra + each}."
    )
    return prompt, answer, extra + each


def _bus(rng: Random) -> tuple[str, str, int]:
    start, leave, enter = rng.randint(15, 50), rng.randint(2, 12), rng.randint(2, 15)
    vehicle = rng.choice(("bus", "train", "boat", "tram"))
    leave_2 = rng.randint(2, 9)
    after, second = start - leave, start - leave + enter
    prompt = (
        f"There are {start} people on a {vehicle}. At the first stop, {leave} people get off and {enter} "
        "people get on. "
        f"At the second stop, {leave_2} people {rng.choice(('get off', 'leave'))}. How many people are on "
        f"the {vehicle} now?"
    )
    answer = (
        f"At the start, there are {start} people on the {vehicle}. "
        f"First, {leave} people get off, so {start} - {leave} = {after}. "
        f"Next, {enter} people get on, so {after} + {enter} = {second}. "
        f"At the second stop, {leave_2} people get off, so {second} - {leave_2} = {second - leave_2}. "
        f"There are {second - leave_2} people on the {vehicle} now. The answer is {second - leave_2}."
    )
    return prompt, answer, second - leave_2


def _garden(rng: Random) -> tuple[str, str, int]:
    name, pronoun = _name(rng)
    first, second = rng.sample(PLANTS, 2)
    rows, each, more = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 15)
    planted = rows * each
    total = planted + more
    dry = rng.randint(2, min(9, total - 1))
    prompt = (
        f"{name} plants {rows} rows of {first} with {each} {first} in each row. {pronoun} also plants "
        f"{more} {second}. "
        f"After a {rng.choice(('dry', 'cold', 'hot', 'bad'))} week, {dry} plants die. How many plants are "
        "left?"
    )
    answer = (
        f"First, we count the {first}. There are {rows} rows with {each} {first} each, so {rows} * {each} "
        f"= {planted}. "
        f"Next, we add the {more} {second}, so {planted} + {more} = {total}. "
        f"Finally, {dry} plants die, so {total} - {dry} = {total - dry}. "
        f"There are {total - dry} plants left in the garden of {name}. The answer is {total - dry}."
    )
    return prompt, answer, total - dry


def _pages(rng: Random) -> tuple[str, str, int]:
    name, pronoun = _name(rng)
    per_day, days, more = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 15)
    done = per_day * days
    total = done + more + rng.randint(2, 9)
    thing, verb = rng.choice(
        (("pages", "reads"), ("letters", "writes"), ("songs", "learns"), ("pictures", "paints"))
    )
    prompt = (
        f"{name} wants to finish {total} {thing}. {pronoun} {verb} {per_day} {thing} a day for {days} days. "
        f"On {rng.choice(('Saturday', 'Sunday'))}, {name} {verb} {more} more {thing}. How many {thing} are "
        "left?"
    )
    answer = (
        f"First, we count the {thing} of the {days} days. {name} {verb} {per_day} {thing} a day, so {days} "
        f"* {per_day} = {done}. "
        f"Next, we add the {more} more {thing}, so {done} + {more} = {done + more}. "
        f"Finally, we subtract this from {total}, so {total} - {done + more} = {total - done - more}. "
        f"There are {total - done - more} {thing} left for {name}. The answer is {total - done - more}."
    )
    return prompt, answer, total - done - more


KINDS = (_bags, _shop, _share, _bus, _garden, _pages)


def make(rng: Random) -> Dialogue:
    """One word problem whose answer shows each step and closes with the number."""
    prompt, answer, value = rng.choice(KINDS)(rng)
    return Dialogue("math_reasoning", (rng.choice(ASKS) + prompt,), (answer,), (final_number(value),))
