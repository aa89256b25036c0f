"""The micro-world's knowledge: small tables that a tiny model can memorize."""


def table(text: str) -> dict[str, str]:
    """Return `a=b, c=d` as a dict."""
    return dict((key, value) for key, value in (entry.strip().split("=") for entry in text.split(",")))


CAPITALS = table(
    "France=Paris, Spain=Madrid, Italy=Rome, Germany=Berlin, Egypt=Cairo, Japan=Tokyo, China=Beijing, Russia=Moscow,"
    "Greece=Athens, Norway=Oslo, Poland=Warsaw, Peru=Lima, Cuba=Havana, Kenya=Nairobi, Iran=Tehran, Austria=Vienna,"
    "Ireland=Dublin, Portugal=Lisbon, Turkey=Ankara, Hungary=Budapest, Sweden=Stockholm, Denmark=Copenhagen"
)
CONTINENTS = table(
    "France=Europe, Spain=Europe, Italy=Europe, Egypt=Africa, Kenya=Africa, Japan=Asia, China=Asia, Iran=Asia,"
    "Peru=America, Cuba=America, Greece=Europe, Ghana=Africa, India=Asia, Chile=America, Canada=America, Mali=Africa"
)
OPPOSITES = table(
    "hot=cold, big=small, fast=slow, high=low, wet=dry, hard=soft, rich=poor, young=old, early=late, open=closed,"
    "full=empty, light=dark, happy=sad, clean=dirty, strong=weak, long=short, thick=thin, near=far, loud=quiet,"
    "cheap=expensive, deep=shallow, sweet=sour"
)
SOUNDS = table(
    "dog=woof, cat=meow, cow=moo, sheep=baa, duck=quack, pig=oink, horse=neigh, bee=buzz, lion=roar, snake=hiss,"
    "frog=croak, owl=hoot, crow=caw, mouse=squeak"
)
YOUNG = table(
    "dog=puppy, cat=kitten, cow=calf, sheep=lamb, duck=duckling, pig=piglet, horse=foal, lion=cub, frog=tadpole,"
    "goat=kid, deer=fawn, hen=chick, goose=gosling, swan=cygnet"
)
COLOURS = table(
    "grass=green, snow=white, coal=black, blood=red, lemon=yellow, sky=blue, milk=white, tomato=red, banana=yellow,"
    "frog=green, carrot=orange, chocolate=brown, night=black, cherry=red, leaf=green, ocean=blue, bear=brown,"
    "pumpkin=orange"
)
PLURALS = table(
    "mouse=mice, child=children, foot=feet, tooth=teeth, goose=geese, man=men, woman=women, leaf=leaves, wolf=wolves,"
    "knife=knives, box=boxes, city=cities, baby=babies, bus=buses, apple=apples, house=houses"
)
PASTS = table(
    "go=went, see=saw, eat=ate, run=ran, take=took, give=gave, write=wrote, sing=sang, buy=bought, come=came,"
    "drink=drank, find=found, make=made, sleep=slept, swim=swam, teach=taught, think=thought, win=won"
)
SPANISH = table(
    "house=casa, water=agua, dog=perro, cat=gato, book=libro, sun=sol, moon=luna, bread=pan, milk=leche, friend=amigo,"
    "day=dia, night=noche, tree=arbol, hand=mano, red=rojo, fire=fuego"
)
KINDS = table(
    "apple=fruit, banana=fruit, cherry=fruit, lemon=fruit, dog=animal, horse=animal, duck=animal, owl=animal,"
    "hammer=tool, saw=tool, drill=tool, red=colour, blue=colour, green=colour, piano=instrument, drum=instrument,"
    "flute=instrument, bus=vehicle, train=vehicle, boat=vehicle, rose=flower, tulip=flower"
)
HOMES = table(
    "bird=nest, bee=hive, fish=water, spider=web, bear=cave, dog=kennel, horse=stable, pig=sty, rabbit=burrow,"
    "lion=den, king=castle, nun=convent"
)
JOBS = table(
    "bread=baker, shoes=cobbler, meat=butcher, crops=farmer, songs=singer, stories=writer, meals=cook,"
    "portraits=painter, clothes=tailor, chairs=carpenter, ships=sailor, teeth=dentist, planes=pilot, lessons=teacher"
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NOUNS = [
    "apple",
    "dog",
    "sun",
    "river",
    "chair",
    "lamp",
    "stone",
    "bird",
    "cloud",
    "boat",
    "tree",
    "milk",
    "rose",
    "drum",
    "horse",
    "key",
    "moon",
    "bread",
    "door",
    "fish",
    "hat",
    "ring",
    "snow",
    "cup",
]
EXTRAS = [
    "music",
    "coffee",
    "summer",
    "winter",
    "forest",
    "ocean",
    "pepper",
    "castle",
    "silver",
    "window",
    "mountain",
    "paper",
]
PHRASES = ["That is all", "I hope this helps", "Thank you", "Good luck", "Have a nice day", "See you soon"]
