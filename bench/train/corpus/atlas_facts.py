"""The closed world of the question answering task: rounded facts on animals, countries and elements."""

from typing import NamedTuple


class Animal(NamedTuple):
    """An animal with its group, home, food, life span in years, mass in kilograms and top speed in km/h."""

    name: str
    group: str
    home: str
    food: str
    years: int
    kilograms: int
    speed: int


class Country(NamedTuple):
    """A country: continent, capital, main language, currency, a famous food, millions of people."""

    name: str
    continent: str
    capital: str
    language: str
    currency: str
    food: str
    millions: int


class Element(NamedTuple):
    """A chemical element with its symbol, atomic number, state at room temperature, look and a common use."""

    name: str
    symbol: str
    number: int
    state: str
    look: str
    use: str


ANIMALS = tuple(
    Animal(*row)
    for row in (
        ("elephant", "mammal", "savanna", "grass and leaves", 65, 5000, 40),
        ("lion", "mammal", "savanna", "large animals", 14, 190, 80),
        ("wolf", "mammal", "forest", "deer and rabbits", 13, 40, 60),
        ("brown bear", "mammal", "forest", "berries and fish", 25, 300, 50),
        ("polar bear", "mammal", "Arctic", "seals", 27, 450, 41),
        ("camel", "mammal", "desert", "dry grass and thorns", 45, 500, 65),
        ("giraffe", "mammal", "savanna", "leaves of tall trees", 26, 1000, 59),
        ("zebra", "mammal", "savanna", "grass", 24, 350, 64),
        ("red fox", "mammal", "forest", "mice and berries", 5, 6, 48),
        ("otter", "mammal", "river", "fish and crabs", 12, 9, 15),
        ("horse", "mammal", "grassland", "grass and hay", 28, 550, 70),
        ("kangaroo", "mammal", "grassland", "grass and herbs", 20, 80, 71),
        ("dolphin", "mammal", "ocean", "fish and squid", 46, 200, 37),
        ("blue whale", "mammal", "ocean", "tiny krill", 85, 99000, 39),
        ("panda", "mammal", "bamboo forest", "bamboo", 22, 110, 32),
        ("tiger", "mammal", "jungle", "deer and wild pigs", 16, 220, 62),
        ("owl", "bird", "forest", "mice", 9, 2, 66),
        ("eagle", "bird", "mountains", "fish and rabbits", 30, 5, 120),
        ("ostrich", "bird", "savanna", "seeds and plants", 42, 115, 69),
        ("penguin", "bird", "Antarctic", "fish and krill", 19, 30, 10),
        ("swan", "bird", "river", "water plants", 21, 11, 88),
        ("crocodile", "reptile", "river", "fish and birds", 70, 400, 29),
        ("sea turtle", "reptile", "ocean", "sea grass and jellyfish", 60, 150, 34),
        ("great shark", "fish", "ocean", "seals and fish", 55, 900, 56),
    )
)
COUNTRIES = tuple(
    Country(*row)
    for row in (
        ("France", "Europe", "Paris", "French", "euro", "fresh bread", 68),
        ("Germany", "Europe", "Berlin", "German", "euro", "potato salad", 84),
        ("Italy", "Europe", "Rome", "Italian", "euro", "pizza", 59),
        ("Spain", "Europe", "Madrid", "Spanish", "euro", "rice with seafood", 48),
        ("Portugal", "Europe", "Lisbon", "Portuguese", "euro", "custard cakes", 10),
        ("Finland", "Europe", "Helsinki", "Finnish", "euro", "rye bread", 6),
        ("Poland", "Europe", "Warsaw", "Polish", "zloty", "filled dumplings", 37),
        ("Sweden", "Europe", "Stockholm", "Swedish", "krona", "meatballs", 11),
        ("Norway", "Europe", "Oslo", "Norwegian", "krone", "brown cheese", 5),
        ("Austria", "Europe", "Vienna", "German", "euro", "apple strudel", 9),
        ("Egypt", "Africa", "Cairo", "Arabic", "pound", "bean stew", 113),
        ("Kenya", "Africa", "Nairobi", "Swahili", "shilling", "maize porridge", 55),
        ("Morocco", "Africa", "Rabat", "Arabic", "dirham", "couscous", 38),
        ("Canada", "North America", "Ottawa", "English", "dollar", "pancakes with syrup", 40),
        ("Jamaica", "North America", "Kingston", "English", "dollar", "spicy chicken", 3),
        ("Peru", "South America", "Lima", "Spanish", "sol", "raw fish with lime", 34),
        ("Chile", "South America", "Santiago", "Spanish", "peso", "corn pie", 20),
        ("Argentina", "South America", "Buenos Aires", "Spanish", "peso", "grilled beef", 46),
        ("South Korea", "Asia", "Seoul", "Korean", "won", "spicy cabbage", 52),
        ("Thailand", "Asia", "Bangkok", "Thai", "baht", "rice noodles", 71),
        ("Nepal", "Asia", "Kathmandu", "Nepali", "rupee", "lentil soup", 30),
        ("Australia", "Oceania", "Canberra", "English", "dollar", "meat pie", 27),
    )
)
ELEMENTS = tuple(
    Element(*row)
    for row in (
        ("hydrogen", "H", 1, "gas", "colorless", "rocket fuel"),
        ("helium", "He", 2, "gas", "colorless", "balloons"),
        ("carbon", "C", 6, "solid", "black", "pencils"),
        ("nitrogen", "N", 7, "gas", "colorless", "fertilizer"),
        ("oxygen", "O", 8, "gas", "colorless", "breathing masks"),
        ("neon", "Ne", 10, "gas", "colorless", "bright signs"),
        ("sodium", "Na", 11, "solid", "silver", "street lamps"),
        ("aluminum", "Al", 13, "solid", "silver", "cans and planes"),
        ("silicon", "Si", 14, "solid", "dark gray", "computer chips"),
        ("sulfur", "S", 16, "solid", "yellow", "matches"),
        ("chlorine", "Cl", 17, "gas", "green", "clean water"),
        ("calcium", "Ca", 20, "solid", "white", "cement"),
        ("iron", "Fe", 26, "solid", "gray", "steel"),
        ("copper", "Cu", 29, "solid", "red", "electric wires"),
        ("zinc", "Zn", 30, "solid", "gray", "batteries"),
        ("silver", "Ag", 47, "solid", "bright white", "jewelry"),
        ("tin", "Sn", 50, "solid", "white", "food cans"),
        ("gold", "Au", 79, "solid", "yellow", "rings and coins"),
        ("mercury", "Hg", 80, "liquid", "silver", "old thermometers"),
        ("lead", "Pb", 82, "solid", "dark gray", "car batteries"),
    )
)
