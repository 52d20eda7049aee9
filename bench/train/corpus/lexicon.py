"""Names of people, towns and days for several generators; short, so that a tiny model can learn them."""

WOMEN = ("Anna", "Clara", "Emma", "Ida", "Julia", "Lena", "Maria", "Nora", "Olga", "Sara", "Tina", "Vera")
MEN = ("Adam", "Ben", "Carl", "David", "Erik", "Felix", "Hugo", "Jonas", "Leo", "Max", "Oscar", "Paul")
NAMES = WOMEN + MEN
SURNAMES = (
    "Adler",
    "Brandt",
    "Conrad",
    "Dorn",
    "Engel",
    "Fischer",
    "Graf",
    "Holt",
    "Keller",
    "Lang",
    "Moser",
    "Novak",
)
TOWNS = (
    "Arden",
    "Belmont",
    "Corwin",
    "Dalby",
    "Elmsford",
    "Farrow",
    "Glenmoor",
    "Harwick",
    "Kelso",
    "Lindholm",
    "Marlow",
    "Norwood",
    "Oakham",
    "Selby",
    "Tarrin",
    "Velden",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
