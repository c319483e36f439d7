"""What people call a model: the catalogue's name in lower case and singular, without brands and numbers."""

from __future__ import annotations

import re

# Names whose words do not say what people would call the thing: brands, plurals, translations
_RENAMED_TEXT = """
acacia = acacia tree; air conditioning - external unit = air conditioner;
air conditioning - internal unit = air conditioner; apple ibook = laptop; apple imac = computer; apple iphone = phone;
apples = bowl of apples; baby bed = crib; bamboo = bamboo plant; barnum = gazebo; bended coconut tree = coconut tree;
bike = bicycle; bill = banknote; biplane = toy plane; black table = table; blue pine under snow = snowy pine tree;
boiler = kettle; bootie = baby shoe; bowl with fruits = fruit bowl; bowl with salad = salad bowl; bulldog = dog;
bullet trash can = trash can; burlap sofa = sofa; camping lamp = camping lantern; cctv = security camera;
chevrolet = car; child bed = child's bed; child chair = child's chair; children chair = child's chair;
children game = climbing frame; children table = child's table; class seat = classroom seat; clear sofa = sofa;
clothes washing machine = washing machine; concept sedan = car; concept sedan sport = car; convertible sofa bz = sofa;
cooker = pressure cooker; copper beech = beech tree; cutting pliers = pair of pliers; cypress = cypress tree;
dart game = dartboard; decorative plant = plant; deer = deer figure; drawers cabinet = drawer cabinet;
dresser with drawers = dresser; dryer machine = tumble dryer; dustbin = waste basket; female = woman;
ficus = ficus tree; flacon = perfume bottle; flipper = pinball machine; flowers = bouquet of flowers;
folded clothes = pile of folded clothes; football table = table football; ford focus = car;
frame chambord = picture frame; frame hôi an = picture frame; french fries = bowl of french fries;
full bookcase = bookcase; gaz water heater = water heater; glasses = pair of glasses;
hanging clothes = row of hanging clothes; hashtray = ashtray; headphones = pair of headphones; high hedge = hedge;
holding female = woman; holding male = man; indoor plant = plant; induction cooker zones = cooktop;
inkjet printer and scanner = printer; japanese maple = maple tree; keyboard = electronic keyboard;
keys = bunch of keys; kitchen tools = rack of kitchen tools; large fridge = fridge; large pan = pan;
large stove = stove; letters box = letter box; lip stick = lipstick; little bank = bench; little lamp = lamp;
little plant = plant; locked locker = locker; lying down boy = lying boy; lying down female = lying woman;
lying down male = lying man; male = man; mannequin female = woman; mannequin male = man; milk = milk carton;
mini stereo = stereo; mixer = food mixer; mocassin = pair of moccasins; modern armchair = armchair;
mower = lawn mower; oil servers = oil and vinegar set; opened convertible sofa bz = sofa bed; osaka chair = chair;
outdoor lamp = lantern; park trashcan = trash can; peach blossom = peach tree; penbox = pen holder; peugeot cc = car;
pine = pine tree; pine under snow = snowy pine tree; plate, glass and cutlery = place setting;
plate, glasses and cutlery = place setting; playstation = game console; poplar = poplar tree; puff = pouf;
puzzle = jigsaw puzzle; refrigerator = fridge; relax chair = sun lounger; renault scenic = car;
residential trashcan = trash can; rigged fan = fan; roasted chicken = roast chicken; rubik's cube = puzzle cube;
ryokan chair = floor chair; scissors = pair of scissors; screen = folding screen; seat leon = car;
short = pair of shorts; siamese cat = cat; sitting female = sitting woman; sitting male = sitting man;
slippers = pair of slippers; small lavatory = washbasin; small step ladder = stepladder; smart car = small car;
sneakers = pair of sneakers; sofa seats = sofa; stairs = staircase; step ladder = stepladder;
sunglasses = pair of sunglasses; sycamore maple = maple tree; table on trestles = trestle table;
teck chair = wooden chair; toilets unit = toilet; tool = kitchen utensil; trousers = pair of trousers; trunck = trunk;
tulips = bunch of tulips; tv remote control = remote control; upper shelves cabinet = corner shelf;
utensils pot = pot of utensils; vertical shelves = tall shelf; vw new beetle = car; wall flat tv = TV;
winchester armchair = armchair; winchester sofa = sofa; woman shoes = pair of shoes; wood bank = wooden bench;
wood logs = pile of logs; wooden alder table = wooden table; wooden teak table = wooden table; yamaha yzr = motorbike
"""
_RENAMED = dict(entry.strip().split(" = ") for entry in _RENAMED_TEXT.split(";"))
_UPPER = {"TV", "DVD", "MP3", "SUV"}
_INVARIABLE = {"clothes", "glass", "compass", "press", "cactus", "ficus", "canvas", "bus", "news", "chess", "dress"}


def clean_name(name: str) -> str:
    """What people would call a model with this name in a catalogue.

    Example:
        >>> clean_name("Apple iMac 2004"), clean_name("Chair_01 (Oak)"), clean_name("Shelves")
        ('computer', 'chair', 'shelf')
    """
    words = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", name.replace("_", " ")).split()
    kept = [word for word in words if not re.search(r"\d", word) or word.upper() in _UPPER]
    lowered = " ".join(word.lower() for word in kept) or "thing"
    if lowered in _RENAMED:
        return _RENAMED[lowered]
    # What follows a dash or a comma is a variant.
    lowered = re.split(r"\s+-\s+|,", lowered)[0].strip() or "thing"
    cleaned = re.sub(r"[^\w' &-]", "", lowered).split()
    if not cleaned:
        return "thing"
    if "with" not in cleaned:
        cleaned[-1] = _singular(cleaned[-1])
    return " ".join(word.upper() if word.upper() in _UPPER else word for word in cleaned)


def _singular(word: str) -> str:
    """The singular of a plural noun, by its ending."""
    if word in _INVARIABLE or not word.endswith("s") or word.endswith(("ss", "us", "is")) or len(word) < 4:
        return word
    if word.endswith("shelves"):
        return word.removesuffix("shelves") + "shelf"
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1]
