"""The words of the glassbox: aspects and their surface forms, titles, and the templates of its texts.

Only `ASPECTS` carries meaning. Every other string is checked by the tests to name no aspect, so that what a
text says about reasons is exactly what its ``{reasons}`` were filled with.
"""

# Ordered by theme, four to a theme: the generator cuts this order into its clusters. The first form of an
# aspect is its name. Every form reads without an article, so that any template and any profile can carry it,
# and has at most three words, so that an extractive profile can pick it up whole.
ASPECTS: tuple[tuple[str, ...], ...] = (
    ("slow-burning suspense", "creeping tension", "steadily mounting dread"),
    ("clever plot twists", "surprising reversals", "unforeseen turns"),
    ("fair-play clues", "intricate puzzles", "tightly knotted riddles"),
    ("flawed detectives", "morally grey investigators", "troubled sleuths"),
    ("inventive world-building", "elaborate imagined worlds", "richly invented realms"),
    ("original magic", "carefully ruled sorcery", "ingenious spellcraft"),
    ("epic battles", "sweeping war scenes", "large-scale clashes"),
    ("speculative science", "plausible future technology", "bold scientific ideas"),
    ("tender romance", "gentle love stories", "heartfelt courtship"),
    ("witty banter", "sparkling dialogue", "quick-fire repartee"),
    ("second chances", "rekindled affection", "reunited lovers"),
    ("strong heroines", "determined women", "resourceful female leads"),
    ("meticulous historical detail", "careful period research", "authentic period colour"),
    ("vivid landscapes", "sense of place", "evocative settings"),
    ("family sagas", "multigenerational stories", "tangled family histories"),
    ("wartime courage", "home-front bravery", "everyday heroism"),
    ("dry humour", "deadpan wit", "wry asides"),
    ("quirky characters", "eccentric neighbours", "colourful oddballs"),
    ("cosy small-town life", "sleepy village charm", "neighbourly warmth"),
    ("mouth-watering food writing", "loving kitchen scenes", "tempting recipes"),
    ("lyrical prose", "poetic language", "musical sentences"),
    ("unreliable narrators", "doubtful storytellers", "slippery narrative voices"),
    ("sharp social commentary", "thoughtful social criticism", "pointed class satire"),
    ("quiet introspection", "inward-looking reflection", "searching self-examination"),
)

TITLE_PATTERNS = ("The {adjective} {noun}", "{noun} of {thing}", "A {adjective} {noun}", "{adjective} {thing}")
TITLE_ADJECTIVES = (
    "Amber", "Broken", "Copper", "Distant", "Early", "Faded", "Golden", "Hollow", "Iron", "Jade", "Last",
    "Midnight", "Northern", "Open", "Paper", "Quiet", "Restless", "Silver", "Tall", "Velvet", "Winter",
)  # fmt: skip
TITLE_NOUNS = (
    "Archive", "Bridge", "Compass", "Door", "Echo", "Ferry", "Garden", "Harbour", "Island", "Journey", "Key",
    "Lantern", "Mirror", "Notebook", "Orchard", "Passage", "Quarry", "River", "Summer", "Tower", "Window",
)  # fmt: skip
TITLE_THINGS = (
    "Ash", "Birds", "Clay", "Dust", "Feathers", "Glass", "Honey", "Ink", "Leaves", "Maps", "Rain", "Salt",
    "Shadows", "Snow", "Stars", "Stone", "Tides", "Water",
)  # fmt: skip

# Short: an adapter learns from the words of the reasons alone, and every other word is read in each step all the same.
REFERENCE_TEMPLATES = (
    "The user would buy the book because it offers {reasons}.",
    "The user would buy the book because they enjoy {reasons}.",
    "The user would buy the book because it is full of {reasons}.",
    "The user would buy the book because they look for {reasons} in a story.",
    "The user would buy the book because its appeal lies in {reasons}.",
    "The user would buy the book because they have a soft spot for {reasons}.",
    "The user would buy the book because it is built around {reasons}.",
    "The user would buy the book because they admire {reasons}.",
    "The user would buy the book because few things please them more than {reasons}.",
    "The user would buy the book because they are drawn to {reasons}.",
    "The user would buy the book because it rewards a taste for {reasons}.",
    "The user would buy the book because stories with {reasons} suit them well.",
    "The user would buy the book because they value {reasons} above all else.",
    "The user would buy the book because it brings them {reasons} once more.",
)

PRAISE_TEMPLATES = (
    "I loved this one for its {reasons}.",
    "I was won over by {reasons}.",
    "If you like {reasons}, pick it up at once.",
    "Nobody does {reasons} quite like this author.",
    "I came for {reasons} and was not let down.",
    "The best thing here? Without doubt, {reasons}.",
    "Rarely have I seen {reasons} handled so well.",
    "It gave me {reasons}, exactly as I had hoped.",
    "There is so much to praise, above all {reasons}.",
    "For me it was all about {reasons}.",
    "My friends know that I cannot resist {reasons}, and this one has it in spades.",
    "A book with {reasons}: what more could I want?",
    "I am always on the lookout for {reasons} and found a treasure.",
    "This one stands out thanks to {reasons}.",
    "I keep thinking about it because of {reasons}.",
    "Give me {reasons} and I am happy.",
)
PRAISE_FILLERS = (
    "I stayed up far too late to finish it.",
    "The pages flew by.",
    "I have already lent my copy to a friend.",
    "It arrived quickly and in good condition.",
    "I will look for more by this author.",
    "My reading group is next.",
    "It was worth every penny.",
    "I read it twice in a month.",
    "The ending left me smiling.",
    "I would recommend it to anyone.",
    "It was a birthday present to myself.",
    "I started it on the train and missed my stop.",
    "The middle is a little long, but never dull.",
    "This will stay on my shelf.",
)
PRAISE_SUMMARIES = ("Loved it", "A new favourite", "Five stars", "Well worth reading", "Could not stop")

COMPLAINTS = (
    "I wanted to like it, but it never came alive.",
    "Not for me: I gave up halfway.",
    "The blurb promised far more than the book delivers.",
    "It dragged, and I skipped whole chapters.",
    "I found the characters flat and the ending rushed.",
    "Full of typing errors; was there no editor?",
    "After all the praise I expected better.",
    "Too long by half.",
)
COMPLAINT_FILLERS = (
    "I sent my copy back.",
    "It goes to the charity shop.",
    "Perhaps others will get more out of it.",
    "A pity, because the cover is lovely.",
    "I have read better this year.",
)
COMPLAINT_SUMMARIES = ("Disappointed", "Not for me", "Expected more", "Save your money")

DESCRIPTION_TEMPLATES = (
    "A novel of {reasons}.",
    "Readers will find {reasons} in these pages.",
    "The author returns with {reasons}.",
    "Few books offer {reasons} at this level.",
    "Come for the story and stay for {reasons}.",
    "Critics have singled out {reasons}.",
    "It is known above all for {reasons}.",
    "With {reasons}, it marks a bold new start.",
)
DESCRIPTION_FILLERS = (
    "It begins on an ordinary morning.",
    "A letter changes everything.",
    "Now in paperback, with a new foreword.",
    "The first volume of a planned trilogy.",
    "Translated into eleven languages.",
    "From an award-winning author.",
    "Includes questions for reading groups.",
    "A stranger arrives, and an old promise has to be kept.",
)
DESCRIPTION_WITHOUT_ASPECTS = "A novel."
