"""Say a question otherwise, or change what it asks: by tables and counts alone, no model.

`Rewriter.same` keeps the meaning (another opening, synonyms, contractions, dropped articles, moved clauses),
`Rewriter.different` replaces what the question is about. Both are rough on purpose: they make weak labels.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

# Openings of one line are taken to be interchangeable.
OPENINGS = [
    "how do i|how can i|how do you|how can you|how to|how should i|how could i|how can one|how does one|"
    "what is the best way to|what are some ways to|what are the best ways to|what is the easiest way to|"
    "what's the best way to|what should i do to|what can i do to|how can we|how do we|what are good ways to",
    "is it possible to|can i|can you|can we|is there a way to|is there any way to|can one|could i",
    "what is the best|what are the best|which is the best|what's the best|which are the best|"
    "what are some good|what are some of the best|what is a good|what are some great|which is a good",
    "what is the difference between|what's the difference between|what are the differences between|"
    "what is the main difference between|difference between|what are the main differences between",
    "what happens if|what would happen if|what will happen if|what if|what happens when",
    "what do you think about|what do you think of|what is your opinion on|what are your views on|"
    "what is your opinion about|what are your thoughts on|how do you feel about",
    "what is it like to|what does it feel like to|how does it feel to|how is it to|what's it like to",
    "why do people|why do some people|why do so many people|why do many people|what makes people",
    "how long does it take to|how much time does it take to|how many days does it take to|"
    "how long will it take to",
    "where can i|where do i|where can you|where can we|where should i|what is the best place to|"
    "what's the best place to|which is the best place to",
    "what is the reason for|what is the cause of|what causes|what are the causes of|what are the reasons for",
    "what are the advantages of|what are the benefits of|what are the pros of|what are some benefits of",
    "what are the disadvantages of|what are the cons of|what are the drawbacks of",
    "what is the meaning of|what does it mean by|what is meant by|meaning of|what's the meaning of",
    "should i|is it good to|is it worth it to|is it a good idea to|do i have to|do i need to",
    "how much does it cost to|what does it cost to|what is the cost to|how expensive is it to",
    "what are some|what are|what are the|which are some|which are the|can you name some|list of",
    "who is|who's|who exactly is",
    "what is the|what's the|what exactly is the|which is the|tell me the",
    "what is|what's|what exactly is|define|can you explain",
    "how does|how exactly does|in what way does",
    "why is|why's|how come|what is the reason that|for what reason is",
    "why are|how come|what is the reason that|for what reason are",
    "will|is it likely that|do you think",
    "how many|what is the number of|what number of",
    "when is|what is the date of|at what time is|when exactly is",
    "have you ever|did you ever|has anyone ever",
]
SYNONYMS = [
    "buy purchase get", "big large huge", "small little tiny", "start begin commence",
    "fast quick quickly rapidly", "best greatest top", "good great nice", "bad poor terrible",
    "job work career", "money cash income", "earn make", "learn study", "improve increase better enhance",
    "reduce decrease lower", "lose shed", "film movie", "movies films",
    "phone mobile smartphone cellphone", "laptop notebook", "company firm business", "companies firms",
    "people persons individuals", "person individual human", "kid child", "kids children", "happen occur",
    "happens occurs", "important significant", "difficult hard tough", "easy simple", "easiest simplest",
    "often frequently", "stop quit avoid", "fix repair solve", "delete remove erase", "create make build",
    "website site", "websites sites", "india indian", "usa america us", "american us",
    "uk britain england", "college university", "colleges universities", "exam test examination",
    "girl woman", "boy guy man", "girlfriend gf", "boyfriend bf", "doctor physician", "help assist",
    "find discover locate", "choose pick select", "think believe", "buying purchasing",
    "learning studying", "making creating", "ways methods techniques", "way method technique",
    "reason cause", "reasons causes", "effect impact", "effects impacts", "famous popular",
    "rich wealthy", "smart intelligent clever", "beautiful pretty", "scary frightening",
    "funny hilarious", "happy glad", "sad unhappy", "angry mad", "afraid scared", "cost price",
    "cheap inexpensive affordable", "expensive costly", "tips advice suggestions", "weight kilos",
    "fat obese", "food meals", "house home", "car vehicle", "picture photo image",
    "pictures photos images", "song track", "songs tracks", "book novel", "books novels", "ask inquire",
    "answer reply respond", "answers replies", "question query", "questions queries", "country nation",
    "countries nations", "world globe", "war conflict", "president leader", "government administration",
    "illegal unlawful", "legal lawful", "programming coding", "software program", "app application",
    "apps applications", "video clip", "videos clips", "language tongue", "english", "password passcode",
    "account profile", "hack break", "recover retrieve restore", "major main", "current present",
    "new latest", "old ancient", "modern contemporary", "various different", "major primary",
    "prepare study", "preparing studying", "interview", "salary pay wage", "startup company",
    "invest put", "investment", "increase raise grow", "gain get", "sleep rest", "tired exhausted",
    "sick ill", "pain ache", "disease illness", "cure treat heal", "treatment therapy", "drug medicine",
    "alcohol liquor", "speak talk", "tell say", "see watch", "look seem", "live stay reside",
    "travel go journey", "trip journey tour", "visit see", "place spot location",
    "places spots locations", "city town", "school", "teacher instructor", "student pupil",
    "students pupils", "marry wed", "marriage wedding", "died passed", "killed murdered", "dead deceased",
    "god deity", "true real", "false fake", "wrong incorrect", "right correct", "need require",
    "needed required", "want wish", "like love enjoy", "hate dislike", "use utilize", "used utilized",
    "using with", "show display", "send transmit", "receive get", "give provide", "allow let permit",
    "allowed permitted", "biggest largest", "smallest tiniest", "effective efficient", "quickly fast",
    "maximum most", "minimum least", "someone somebody", "anyone anybody", "everyone everybody", "nobody",
    "maybe perhaps", "about regarding", "mobile phone", "gmail email", "email mail",
    "internet web online", "facebook fb", "instagram insta", "whatsapp", "demonetization ban",
    "trump donald", "clinton hillary", "modi", "quit leave", "job employment", "grow increase",
    "meaning definition", "mean signify", "example instance", "examples instances",
    "difference distinction", "differences distinctions", "similar alike", "compare contrast",
    "versus vs",
]  # fmt: skip
OPPOSITES = [
    "increase decrease", "buy sell", "gain lose", "best worst", "before after", "men women", "man woman",
    "boy girl", "with without", "first last", "learn teach", "advantages disadvantages", "pros cons",
    "good bad", "male female", "boys girls", "husband wife", "mother father", "son daughter",
    "brother sister", "north south", "east west", "hot cold", "winter summer", "start stop",
    "create delete", "open close", "old new", "rich poor", "more less", "most least", "high low",
    "big small", "true false", "love hate", "legal illegal", "right wrong", "up down", "online offline",
    "india china", "android iphone", "windows mac", "java python", "facebook instagram",
    "boyfriend girlfriend", "day night", "morning evening", "import export", "public private",
    "free paid", "introvert extrovert", "single married", "long short", "fast slow", "easy difficult",
    "easiest hardest", "black white", "left right", "inside outside", "win lose", "life death",
    "beginning end", "cause effect", "causes effects", "cause cure", "symptoms causes", "how why",
    "why how", "when where", "where when", "who when", "remove add", "install uninstall", "send receive",
    "lend borrow", "import export", "push pull", "parents children", "employer employee",
    "teacher student", "hardware software", "undergraduate graduate", "positive negative",
]  # fmt: skip
CONTRACTIONS = {
    "what is": "what's", "do not": "don't", "does not": "doesn't", "can not": "can't", "cannot": "can't",
    "is not": "isn't", "are not": "aren't", "did not": "didn't", "i am": "i'm", "it is": "it's",
    "will not": "won't", "who is": "who's", "should not": "shouldn't", "would not": "wouldn't",
    "i have": "i've", "you are": "you're",
}  # fmt: skip
STOPS = frozenset(
    """
    a an the is are was were be been being do does did i you we he she it they my your our his her its
    their me him them us to of in on for with at by from as and or but if so that this these those there
    here can could should would will shall may might must have has had having get some any what which how
    am than then into about just really very too also one ever way ways best good not
    """.split()  # noqa: SIM905 (two hundred quotation marks less)
)
FILLERS = frozenset("actually really very just exactly even ever simply basically currently".split())  # noqa: SIM905
WORD = re.compile(r"[a-z]+'[a-z]+|[a-z]+|\d+(?:[.,]\d+)*", re.IGNORECASE)
MOVED = re.compile(r"^(.{15,}?) ((?:in|for|at|from|on|after|before|without|during) [^,?]{3,30})$")
RAREST = 3  # a word in fewer questions is no replacement


def words(question: str) -> list[str]:
    """Return the words and numbers of a question in small letters."""
    return WORD.findall(question.lower())


def stem(word: str) -> str:
    """Cut the commonest endings."""
    for ending in ("ies", "ing", "ers", "ed", "es", "er", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word.removesuffix("e") if len(word) > 4 else word


def _groups(lines: Iterable[str], separator: str | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        members = line.split(separator)
        for member in members:
            found.setdefault(member, [other for other in members if other != member])
    return found


class Rewriter:
    """Rewrites questions; what may replace a word is learned from `questions`, what it draws from `seed`."""

    def __init__(self, questions: Sequence[str], generator: random.Random) -> None:
        self.draw = generator
        self.openings = _groups(OPENINGS, "|")
        self.synonyms = _groups(SYNONYMS, None)
        self.opposites = _groups(OPPOSITES, None)
        split = [words(question) for question in questions]
        self.counts = Counter(word for row in split for word in dict.fromkeys(row))
        self.after: dict[str, list[str]] = defaultdict(list)
        for row in split:
            for before, word in pairwise(row):
                if word not in STOPS and self.counts[word] >= RAREST:
                    self.after[before].append(word)
        by_count = [
            word for word, count in self.counts.most_common() if count >= RAREST and word not in STOPS
        ]
        self.by_count, self.place = by_count, {word: i for i, word in enumerate(by_count)}

    def same(self, question: str, edits: int) -> str:
        """Return the question with up to `edits` edits that keep what it asks."""
        edit = [
            self._opening,
            self._opening,
            self._synonym,
            self._synonym,
            self._contract,
            self._drop,
            self._move,
        ]
        for change in self.draw.sample(edit, min(edits, len(edit))):
            question = change(question)
        return self._surface(question)

    def different(self, question: str) -> str | None:
        """Return the question with one or two words replaced so that it asks something else."""
        for _ in range(2 if self.draw.random() < 0.2 else 1):
            changed = self._replace(question)
            if changed is None:
                return None
            question = changed
        return question

    def _opening(self, question: str) -> str:
        parts = question.split(" ")
        for count in range(min(8, len(parts) - 1), 0, -1):
            others = self.openings.get(" ".join(parts[:count]).lower())
            if others:
                return _capital(self.draw.choice(others)) + " " + " ".join(parts[count:])
        return question

    def _synonym(self, question: str) -> str:
        known = [word for word in words(question) if self.synonyms.get(word)]
        if not known:
            return self._drop(question)
        word = self.draw.choice(known)
        return _put(question, word, self.draw.choice(self.synonyms[word]))

    def _contract(self, question: str) -> str:
        for long, short in CONTRACTIONS.items():
            first, second = (long, short) if self.draw.random() < 0.6 else (short, long)
            if re.search(rf"\b{first}\b", question, re.IGNORECASE):
                return _put(question, first, second)
        return question

    def _drop(self, question: str) -> str:
        droppable = [
            w for w in words(question) if w in FILLERS or w in ("the", "a", "an", "some", "any", "my")
        ]
        if not droppable:
            return question
        return _capital(
            re.sub(rf"\b{self.draw.choice(droppable)} ", "", question, count=1, flags=re.IGNORECASE)
        )

    def _move(self, question: str) -> str:
        """Move the last clause to the front."""
        body = question.rstrip("? .")
        found = MOVED.match(body)
        if not found:
            return question
        return _capital(found[2]) + ", " + found[1][:1].lower() + found[1][1:] + question[len(body) :]

    def _surface(self, question: str) -> str:
        chance = self.draw.random()
        if chance < 0.06:
            return question.lower()
        if chance < 0.12:
            return question.rstrip("? .")
        return question

    def _replace(self, question: str) -> str | None:
        found = words(question)
        opposed = [word for word in found if word in self.opposites]
        if opposed and self.draw.random() < 0.35:
            word = self.draw.choice(opposed)
            return _put(question, word, self.draw.choice(self.opposites[word]))
        # what is rare is mostly what the question is about
        content = [
            (word, before) for before, word in zip(["", *found], found, strict=False) if word not in STOPS
        ]
        if not content:
            return None
        content.sort(key=lambda pair: self.counts[pair[0]])
        word, before = self.draw.choice(content[: max(2, len(content) // 2 + 1)])
        other = self._other(word, before)
        return _put(question, word, other) if other else None

    def _other(self, word: str, before: str) -> str | None:
        if word.isdigit():
            number = max(1, int(word) + self.draw.choice([-10, -5, -2, -1, 1, 2, 3, 5, 10, 100]))
            return str(number) if str(number) != word else str(number + 1)
        for _ in range(8):
            pool = self.after.get(before)
            if pool and self.draw.random() < 0.7:
                other = self.draw.choice(pool)
            else:
                centre = self.place.get(word, len(self.by_count) - 1)
                width = max(20, centre // 4)
                i = self.draw.randint(max(0, centre - width), min(len(self.by_count) - 1, centre + width))
                other = self.by_count[i]
            if stem(other) != stem(word) and other not in self.synonyms.get(word, []):
                return other
        return None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _put(question: str, word: str, other: str) -> str:
    """Replace a word, in the same kind of letters."""

    def spelled(match: re.Match[str]) -> str:
        return _capital(other) if match[0][:1].isupper() else other

    return re.sub(rf"\b{re.escape(word)}\b", spelled, question, count=1, flags=re.IGNORECASE)
