"""Translation: German texts of five sentences from a small grammar, with one English rendering each.

Covers gender and case of articles and adjectives, verb second, the perfect tense, modals and "weil" clauses.
"""

from random import Random

from bench.train.corpus.dialogue import Dialogue, capital, reference

# German noun, gender, English noun, German pronoun, English pronoun.
PEOPLE = (
    ("Mann", "m", "man", "er", "he"), ("Frau", "f", "woman", "sie", "she"),
    ("Lehrer", "m", "teacher", "er", "he"),
    ("Ärztin", "f", "doctor", "sie", "she"), ("Bäcker", "m", "baker", "er", "he"),
    ("Köchin", "f", "cook", "sie", "she"),
    ("Bauer", "m", "farmer", "er", "he"), ("Schwester", "f", "sister", "sie", "she"),
    ("Bruder", "m", "brother", "er", "he"),
    ("Tante", "f", "aunt", "sie", "she"), ("Onkel", "m", "uncle", "er", "he"),
    ("Tochter", "f", "daughter", "sie", "she"),
)  # fmt: skip
THINGS = (
    ("Haus", "n", "house"), ("Fahrrad", "n", "bicycle"), ("Auto", "n", "car"), ("Bild", "n", "picture"),
    ("Boot", "n", "boat"),
    ("Lampe", "f", "lamp"), ("Uhr", "f", "clock"), ("Tasche", "f", "bag"), ("Karte", "f", "map"),
    ("Kamera", "f", "camera"),
    ("Tisch", "m", "table"), ("Stuhl", "m", "chair"), ("Hut", "m", "hat"), ("Mantel", "m", "coat"),
    ("Hund", "m", "dog"),
    ("Schrank", "m", "cupboard"), ("Katze", "f", "cat"), ("Pferd", "n", "horse"),
)  # fmt: skip
FOODS = (
    ("Apfel", "m", "apple"), ("Kuchen", "m", "cake"), ("Fisch", "m", "fish"), ("Suppe", "f", "soup"),
    ("Birne", "f", "pear"),
    ("Kartoffel", "f", "potato"), ("Brötchen", "n", "bread roll"), ("Ei", "n", "egg"),
)  # fmt: skip
# German stem, English adjective, for people and for things.
TRAITS = (
    ("alt", "old"),
    ("jung", "young"),
    ("klug", "clever"),
    ("nett", "kind"),
    ("groß", "tall"),
    ("ruhig", "quiet"),
)
LOOKS = (
    ("klein", "small"), ("neu", "new"), ("rot", "red"), ("blau", "blue"), ("grün", "green"),
    ("schön", "beautiful"), ("weiß", "white"),
    ("schwarz", "black"), ("billig", "cheap"), ("braun", "brown"),
)  # fmt: skip
MOODS = (
    ("glücklich", "happy"),
    ("müde", "tired"),
    ("traurig", "sad"),
    ("zufrieden", "satisfied"),
    ("stolz", "proud"),
)
# Third person, participle, infinitive; the same in English.
VERBS = (
    ("kauft", "gekauft", "kaufen", "buys", "bought", "buy"),
    ("sieht", "gesehen", "sehen", "sees", "saw", "see"),
    ("sucht", "gesucht", "suchen", "looks for", "looked for", "look for"),
    ("findet", "gefunden", "finden", "finds", "found", "find"),
    ("malt", "gemalt", "malen", "paints", "painted", "paint"),
    ("zeigt", "gezeigt", "zeigen", "shows", "showed", "show"),
    ("verkauft", "verkauft", "verkaufen", "sells", "sold", "sell"),
    ("braucht", "gebraucht", "brauchen", "needs", "needed", "need"),
)  # fmt: skip
EATING = (
    ("isst", "gegessen", "essen", "eats", "ate", "eat"),
    ("kocht", "gekocht", "kochen", "cooks", "cooked", "cook"),
    ("teilt", "geteilt", "teilen", "shares", "shared", "share"),
)  # fmt: skip
PLACES = (
    ("in der Stadt", "in the city"), ("im Garten", "in the garden"), ("auf dem Markt", "at the market"),
    ("in der Schule", "at school"),
    ("am See", "at the lake"), ("im Dorf", "in the village"), ("in der Küche", "in the kitchen"),
    ("am Bahnhof", "at the station"),
    ("im Wald", "in the forest"), ("zu Hause", "at home"),
)  # fmt: skip
TIMES = (
    ("heute", "today"), ("am Montag", "on Monday"), ("am Freitag", "on Friday"),
    ("am Abend", "in the evening"), ("am Morgen", "in the morning"),
    ("im Sommer", "in summer"), ("im Winter", "in winter"), ("jeden Tag", "every day"), ("oft", "often"),
    ("am Sonntag", "on Sunday"),
)  # fmt: skip
PAST_TIMES = (
    ("gestern", "yesterday"), ("letzte Woche", "last week"), ("letztes Jahr", "last year"),
    ("vor zwei Tagen", "two days ago"),
    ("am letzten Montag", "last Monday"), ("vor einer Stunde", "an hour ago"),
)  # fmt: skip
MODALS = (
    ("will", "wants to"),
    ("kann", "can"),
    ("muss", "must"),
    ("möchte", "would like to"),
    ("soll", "should"),
)
ARTICLE = {"m": "der", "f": "die", "n": "das"}
ACCUSATIVE = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}
ASKS = (
    "Translate German to English: ",
    "Translate this German text into English: ",
    "What does this mean in English? ",
    "Please translate from German to English: ",
    "Give me the English translation: ",
)

Pair = tuple[str, str]


def _subject(rng: Random) -> tuple[str, str, str, str]:
    """A German and an English subject, and the two pronouns for it."""
    noun, gender, english, he_de, he_en = rng.choice(PEOPLE)
    if rng.random() < 0.5:
        trait_de, trait_en = rng.choice(TRAITS)
        return f"{ARTICLE[gender]} {trait_de}e {noun}", f"the {trait_en} {english}", he_de, he_en
    return f"{ARTICLE[gender]} {noun}", f"the {english}", he_de, he_en


def _object(rng: Random) -> tuple[Pair, tuple[str, str, str, str, str, str]]:
    """A German and an English indefinite object, and a verb that takes it."""
    food = rng.random() < 0.3
    noun, gender, english = rng.choice(FOODS if food else THINGS)
    look_de, look_en = rng.choice(LOOKS)
    article, ending = ACCUSATIVE[gender]
    verb = rng.choice(EATING if food else VERBS)
    return (f"{article} {look_de}{ending} {noun}", f"a {look_en} {english}"), verb


def _present(rng: Random) -> Pair:
    (sub_de, sub_en, _, _), (obj, verb) = _subject(rng), _object(rng)
    time, place = rng.choice(TIMES), rng.choice(PLACES)
    return (
        f"{sub_de} {verb[0]} {time[0]} {place[0]} {obj[0]}",
        f"{sub_en} {verb[3]} {obj[1]} {place[1]} {time[1]}",
    )


def _time_first(rng: Random) -> Pair:
    (sub_de, sub_en, _, _), (obj, verb) = _subject(rng), _object(rng)
    time, place = rng.choice(TIMES), rng.choice(PLACES)
    return (
        f"{time[0]} {verb[0]} {sub_de} {place[0]} {obj[0]}",
        f"{time[1]} {sub_en} {verb[3]} {obj[1]} {place[1]}",
    )


def _perfect(rng: Random) -> Pair:
    (sub_de, sub_en, _, _), (obj, verb) = _subject(rng), _object(rng)
    time, place = rng.choice(PAST_TIMES), rng.choice(PLACES)
    return (
        f"{time[0]} hat {sub_de} {place[0]} {obj[0]} {verb[1]}",
        f"{time[1]} {sub_en} {verb[4]} {obj[1]} {place[1]}",
    )


def _modal(rng: Random) -> Pair:
    (sub_de, sub_en, _, _), (obj, verb) = _subject(rng), _object(rng)
    modal, place = rng.choice(MODALS), rng.choice(PLACES)
    return (
        f"{sub_de} {modal[0]} {place[0]} {obj[0]} {verb[2]}",
        f"{sub_en} {modal[1]} {verb[5]} {obj[1]} {place[1]}",
    )


def _because(rng: Random) -> Pair:
    (sub_de, sub_en, he_de, he_en), (obj, verb) = _subject(rng), _object(rng)
    mood, time = rng.choice(MOODS), rng.choice(TIMES)
    german = f"{sub_de} ist {mood[0]}, weil {he_de} {time[0]} {obj[0]} {verb[0]}"
    return german, f"{sub_en} is {mood[1]} because {he_en} {verb[3]} {obj[1]} {time[1]}"


def _both(rng: Random) -> Pair:
    (sub_de, sub_en, _, _), (obj, verb) = _subject(rng), _object(rng)
    (oth_de, oth_en, _, _), (obj_2, verb_2) = _subject(rng), _object(rng)
    german = f"{sub_de} {verb[0]} {obj[0]}, und {oth_de} {verb_2[0]} {obj_2[0]}"
    return german, f"{sub_en} {verb[3]} {obj[1]}, and {oth_en} {verb_2[3]} {obj_2[1]}"


KINDS = (_present, _time_first, _perfect, _modal, _because, _both)


def make(rng: Random) -> Dialogue:
    """One German text of five sentences, each of a different kind, and its translation."""
    pairs = [kind(rng) for kind in rng.sample(KINDS, 5)]
    german = " ".join(f"{capital(pair[0])}." for pair in pairs)
    english = " ".join(f"{capital(pair[1])}." for pair in pairs)
    return Dialogue("translation", (rng.choice(ASKS) + german,), (english,), (reference(english),))
