"""Shop titles: what a product is, in plain words and without its brand.

Only words that are listed here get through, so that no brand, model number or misspelling can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.readers.wording import article, is_plural

__all__ = ["COLOURS", "Title", "read_title", "title_key"]

COLOURS: dict[str, tuple[str, ...]] = {
    "black": ("black",), "white": ("white",), "grey": ("grey",), "red": ("red",), "orange": ("orange",),
    "yellow": ("yellow",), "green": ("green",), "olive": ("olive",), "teal": ("teal",), "blue": ("blue",),
    "purple": ("purple",), "pink": ("pink",), "brown": ("brown",), "tan": ("tan",), "beige": ("beige",),
    "gold": ("gold",), "silver": ("silver",), "burgundy": ("burgundy",),
    "navy blue": ("navy",), "navy": ("navy",), "maroon": ("burgundy",), "off white": ("white",), "cream": ("beige",),
    "khaki": ("beige",), "steel": ("silver",), "lavender": ("purple",), "magenta": ("pink",), "charcoal": ("grey",),
    "peach": ("orange",), "copper": ("brown",), "mustard": ("yellow",), "rust": ("orange",), "grey melange": ("grey",),
    "coffee brown": ("brown",), "turquoise blue": ("teal",), "bronze": ("brown",), "sea green": ("green",),
    "taupe": ("beige",), "metallic": ("silver",), "nude": ("beige",), "fluorescent green": ("green",),
    "mushroom brown": ("brown",), "lime green": ("green",), "multi": ("multicolour",),
}  # fmt: skip
"""The shop's colour words, in small letters -> ours. What is not here ("NA") is unknown."""

_GENDERS = {"Men": "men's", "Women": "women's", "Boys": "boys'", "Girls": "girls'"}

_COLOUR_WORDS = frozenset(word for name in COLOURS for word in name.split()) | {
    "dark", "light", "multicolour", "multicoloured", "coloured", "colored", "dk", "lt", "aqua", "turquoise", "golden",
}  # fmt: skip

_PATTERNS = (
    (r"polka", "polka-dot", "polka dot"),
    (r"stripe[sd]?|striper", "striped", "striped"),
    (r"check(s|ed|ered)?|plaid", "checked", "checked"),
    (r"floral|flowers?", "floral", "floral"),
    (r"camo(uflage)?", "camouflage", "camouflage"),
    (r"colou?r ?block(ed)?|colou?rblocked", "colour-block", "colour block"),
    (r"graphic", "graphic", None),
    (r"print(s|ed)?", "printed", None),
    (r"patterned", "patterned", None),
    (r"washed", "washed", None),
    (r"solid", "plain", "solid"),
)
_MATERIALS = (
    (r"leather", "leather"),
    (r"denim", "denim"),
    (r"suede", "suede"),
    (r"canvas", "canvas"),
    (r"cotton", "cotton"),
    (r"silk", "silk"),
    (r"knit(ted)?", "knitted"),
    (r"wool(len)?", "woollen"),
)
_STYLES = (
    (r"slim fit", "slim-fit"),
    (r"formal", "formal"),
    (r"casual", "casual"),
    (r"sports?", "sports"),
)

# (words of the title, noun, garment or None where the ontology has no word for it), the first that is found counts.
_Nouns = tuple[tuple[str, str, str | None], ...]
_SHOES: _Nouns = (
    (r"flip.?flops?|thongs?|slippers?", "flip-flops", "sandals"),
    (r"sandals?|floaters?", "sandals", "sandals"),
    (r"wedges?", "wedges", "heels"),
    (r"heels?|stilettos?|pumps?|peep.?toes?", "heels", "heels"),
    (r"ballerinas?", "ballerina flats", "flats"),
    (r"flats?", "flat sandals", "sandals"),  # nearly all of these are, in this shop
    (r"loafers?|moccasins?", "loafers", "loafers"),
    (r"boots?", "boots", "boots"),
    (r"sneakers?", "sneakers", "sneakers"),
    (r"derbys?|brogues?|oxfords?|wingtips?", "lace-up shoes", "lace-up shoes"),
    (r"clogs?", "clogs", "shoes"),
    (r"formal", "formal shoes", "lace-up shoes"),  # about three in four; the rest are slip-ons
    (r"sports?|running|run|training|tennis|football|soccer|basketball|trainer", "sports shoes", "sneakers"),
    (r"casual", "casual shoes", "shoes"),
    (r"", "shoes", "shoes"),
)
_NOUNS: dict[str, _Nouns] = {
    "Shoes": _SHOES,
    "Sandal": (*_SHOES[:2], (r"", "sandals", "sandals")),
    "Flip Flops": ((r"", "flip-flops", "sandals"),),
    "Watches": ((r"", "watch", "watch"),),
    "Eyewear": ((r"", "sunglasses", "sunglasses"),),
    "Wallets": ((r"card holder", "card holder", None), (r"", "wallet", None)),
    "Belts": ((r"", "belt", "belt"),),
    "Socks": ((r"", "socks", "socks"),),
    "Headwear": (
        (r"headband", "headband", None),
        (r"bandana", "bandana", None),
        (r"beanie|skull", "beanie", "hat"),
        (r"hat", "hat", "hat"),
        (r"", "cap", "cap"),
    ),
    "Ties": ((r"", "tie", "tie"),),
    "Bags": (
        (r"backpacks?|rucksack", "backpack", "backpack"),
        (r"clutch", "clutch", "clutch"),
        (r"mobile|pouch|cover|sleeve", "pouch", None),
        (r"laptop", "laptop bag", "bag"),
        (r"messenger|sling", "messenger bag", "bag"),
        (r"duff[el]{2}|gym", "duffel bag", "bag"),
        (r"handbags?|satchel|purse|potli", "handbag", "bag"),
        (r"", "bag", "bag"),
    ),
    "Mufflers": ((r"", "scarf", "scarf"),),
    "Scarves": ((r"", "scarf", "scarf"),),
    "Stoles": ((r"", "stole", "scarf"),),
    "Jewellery": (
        (r"set", "jewellery set", None),
        (r"earrings?", "earrings", "earrings"),
        (r"ring", "ring", "ring"),
        (r"necklace|pendant|chain", "necklace", "necklace"),
        (r"bracelet|bangles?", "bracelet", "bracelet"),
        (r"", "piece of jewellery", None),
    ),
    "Gloves": ((r"", "gloves", "gloves"),),
    "Accessories": (
        (r"tie", "tie set", "tie"),
        (r"messenger", "messenger bag", "bag"),
        (r"bags?", "bag", "bag"),
        (r"", "accessory", None),
    ),
    "Sports Accessories": ((r"", "wristbands", None),),
    "Saree": ((r"", "sari", None),),
    "Apparel Set": ((r"", "outfit", None),),
    "Loungewear and Nightwear": (
        (r"nightdress|nighty", "nightdress", None),
        (r"shorts", "shorts", None),
        (r"pants?|capris?", "pyjama trousers", None),
        (r"", "nightwear", None),
    ),
    "Dress": ((r"playsuit", "playsuit", None), (r"", "dress", "dress")),
    "Bottomwear": (
        (r"jeans?", "jeans", "jeans"),
        (r"jeggings?|leggings?|churidar", "leggings", "leggings"),
        (r"shorts?|bermuda", "shorts", "shorts"),
        (r"skirts?", "skirt", "skirt"),
        (r"tights|stockings?", "tights", "tights"),
        (r"track.?suits?", "tracksuit", None),
        (r"track.?pants?|sweatpants", "track pants", "trousers"),
        (r"capris?", "capri trousers", "trousers"),
        (r"", "trousers", "trousers"),
    ),
    "Topwear": (
        (r"dupatta", "dupatta", None),
        (r"polo", "polo shirt", "polo shirt"),
        (r"t.?shirts?|tee", "t-shirt", "t-shirt"),
        (r"sweatshirts?", "sweatshirt", "sweatshirt"),
        (r"hoody|hoodie", "hoodie", "hoodie"),
        (r"shirts?", "shirt", "shirt"),
        (r"kurtas?|kurtis?", "kurta", "kurta"),
        (r"tunics?", "tunic", "top"),
        (r"sweaters?", "sweater", "sweater"),
        (r"blazer", "blazer", "blazer"),
        (r"jackets?", "jacket", "jacket"),
        (r"jerseys?", "jersey", "t-shirt"),
        (r"shrug", "shrug", None),
        (r"tops?", "top", "top"),
        (r"", "top", None),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Title:
    """What a title and the shop's fields say.

    Attributes:
        noun: plain word for the product, e.g. "sports shoes".
        garment: word of the ontology, or None where it has none.
        pattern: of the ontology, or None where the title names none.
        who: "men's", "women's", "boys'", "girls'" or nothing.
        words: adjectives of style, pattern and material, in this order.
        dial: colour of a watch's face, or nothing.
    """

    noun: str
    garment: str | None
    pattern: str | None
    who: str
    words: tuple[str, ...]
    dial: str = ""

    def phrase(self, colour: str, noun: str | None = None) -> str:
        """ "a men's black printed t-shirt"; `noun` in place of the title's own."""
        noun = noun or self.noun
        words = [word for word in self.words if word not in noun.split()]
        # "a plain black shirt", but "a black printed shirt"
        before = [word for word in words if word in ("plain", "casual", "formal")]
        words = [self.who, *before, colour, *(word for word in words if word not in before), noun]
        text = " ".join(word for word in words if word)
        if not is_plural(noun) and noun != "nightwear":
            text = f"{article(text)} {text}"
        return f"{text} with a {self.dial} dial" if self.dial else text


def _tail(title: str) -> str:
    """What follows the brand, in small letters: brands come before the word for whom it is."""
    found = list(re.finditer(r"\b(wo)?m[ae]n(['’]?s)?\b|\b(boy|girl|kid)(['’]?s)?\b|\bunisex\b", title, re.IGNORECASE))
    return (title[found[-1].end() :] if found else title).lower()


def read_title(title: str, subcategory: str, gender: str) -> Title:
    """Unknown subcategories give the noun "product" and no garment."""
    tail = _tail(title)

    def says(pattern: str) -> bool:
        return not pattern or re.search(rf"\b(?:{pattern})\b", tail) is not None

    noun, garment = next(
        ((noun, garment) for pattern, noun, garment in _NOUNS.get(subcategory, ()) if says(pattern)), ("product", None)
    )
    pattern = next(((word, value) for regex, word, value in _PATTERNS if says(regex)), None)
    words = [next((word for regex, word in _STYLES if says(regex)), "")]
    words.append(pattern[0] if pattern else "")
    # "leatherette" and "leather" on a watch's strap are not what the whole is made of.
    words.append(next((word for regex, word in _MATERIALS if says(regex) and garment != "watch"), ""))
    if subcategory == "Watches":
        words, pattern = [], None
    dial = re.search(r"\b(\w+) dial\b", tail) if subcategory == "Watches" else None
    return Title(
        noun=noun,
        garment=garment,
        pattern=pattern[1] if pattern else None,
        who=_GENDERS.get(gender, ""),
        words=tuple(word for word in words if word and word != noun),
        dial=dial.group(1) if dial and dial.group(1) in COLOURS else "",
    )


def title_key(title: str) -> str:
    """The title without colours, numbers, punctuation and plurals: the same product in other colours has the same."""
    words = re.findall(r"[a-z]+", re.sub(r"t[ -]shirt", "tshirt", title.lower()))
    kept = [word.removesuffix("s") for word in words if word not in _COLOUR_WORDS and len(word) > 1]
    return " ".join(kept)
