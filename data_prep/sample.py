"""A generated corpus: invented languages that say the same things in their own words and orders, with known alignments.

It is text for the quickstart and the tests, in the layouts that the readers take, and knows nothing of tokenizers, token
files or models.

How a sentence comes about: `Meanings` draws what is said (who does what to whom, where and how); a `Language` says it.
Every concept keeps its place in the meaning as a slot, so two sentences of one meaning align where their slots agree.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, chain, combinations
from pathlib import Path
from typing import NamedTuple

Concept = tuple[str, int]
"""What a content word means: its class and its number in the class, the most frequent first."""

CONCEPTS = {"noun": 32, "verb": 16, "adjective": 12, "adverb": 6, "adposition": 4}
"""How many concepts a class has; the one of rank r is drawn with a weight of 1 / (r + 1)."""

OBJECT_SHARE, PLACE_SHARE, ADVERB_SHARE, ADJECTIVE_SHARE = 0.75, 0.4, 0.3, 0.4
"""How many clauses have an object, a place and an adverb, and how many nouns an adjective."""

TITLE_SHARE = 0.4
"""How many training pairs are titles, of one concept, rather than clauses."""

REDRAWS = 10_000


class Phrase(NamedTuple):
    """A noun with what belongs to it, or one part of that."""

    noun: Concept | None = None
    adjective: Concept | None = None
    adposition: Concept | None = None


class Meaning(NamedTuple):
    """What a sentence says; no concept occurs in it twice. A clause has a verb and a subject, a title has one concept."""

    verb: Concept | None = None
    subject: Phrase | None = None
    object: Phrase | None = None
    place: Phrase | None = None
    adverb: Concept | None = None


class Word(NamedTuple):
    """A written word and its slot, the concept that it stands for; None for a word that only this language has."""

    form: str
    slot: Concept | None


def _syllables(consonants: str, vowels: str) -> tuple[str, ...]:
    return tuple(consonant + vowel for consonant in consonants for vowel in vowels)


@dataclass(frozen=True)
class Grammar:
    """How a language orders and writes its words. Each has a script of its own, so no two share a word."""

    code: str
    """Language code, one of those that ISO 639 leaves to private use."""
    clause: tuple[str, ...]
    """The fields of a meaning, in the order in which they are said."""
    phrase: tuple[str, ...]
    """The fields of a phrase, in the order in which they are said."""
    syllables: tuple[str, ...]
    """What words are made of."""
    lengths: tuple[int, ...]
    """How many syllables a word has; drawn evenly."""
    marks_object: bool = False
    """Whether a particle, which no other language has, follows the object."""
    spaces: bool = True
    """Whether running text has spaces between words."""


GRAMMARS = (
    Grammar(
        code="qaa",
        clause=("subject", "adverb", "verb", "object", "place"),
        phrase=("adposition", "adjective", "noun"),
        syllables=_syllables("bdfgklmnprstvz", "aeiou"),
        lengths=(2, 2, 3),
    ),
    Grammar(
        code="qab",
        clause=("subject", "place", "object", "adverb", "verb"),
        phrase=("noun", "adjective", "adposition"),
        syllables=tuple(chr(code) for code in range(0xAC00, 0xD7A4, 4)),  # every fourth block of Hangul
        lengths=(1, 1, 1, 2),
        marks_object=True,
        spaces=False,
    ),
    Grammar(
        code="qac",
        clause=("verb", "subject", "object", "adverb", "place"),
        phrase=("adposition", "noun", "adjective"),
        syllables=_syllables("бвгджзклмнпрст", "аеиоу"),
        lengths=(2, 2, 3),
    ),
)


class Language:
    """A grammar with a vocabulary: one word for every concept, and the object particle where the grammar has one."""

    def __init__(self, grammar: Grammar, seed: int) -> None:
        self.grammar = grammar
        form_source = _new_words(grammar, random.Random(f"words of {grammar.code} {seed}"))
        self.particle = Word(next(form_source), slot=None)
        self.word_of = {
            (class_, rank): Word(next(form_source), slot=(class_, rank))
            for class_, count in CONCEPTS.items()
            for rank in range(count)
        }

    def say(self, meaning: Meaning) -> list[Word]:
        """The words of one sentence."""
        words: list[Word] = []
        for field in self.grammar.clause:
            part = getattr(meaning, field)
            if isinstance(part, Phrase):
                concepts = (getattr(part, field_of_phrase) for field_of_phrase in self.grammar.phrase)
                words += [self.word_of[concept] for concept in concepts if concept is not None]
                if field == "object" and self.grammar.marks_object:
                    words.append(self.particle)
            elif part is not None:
                words.append(self.word_of[part])
        return words

    def write(self, meaning: Meaning) -> str:
        """One sentence of running text."""
        return (" " if self.grammar.spaces else "").join(word.form for word in self.say(meaning))


def _new_words(grammar: Grammar, rng: random.Random) -> Iterator[str]:
    """Words of the grammar's syllables, none twice."""
    seen: set[str] = set()
    while True:
        form = "".join(rng.choices(grammar.syllables, k=rng.choice(grammar.lengths)))
        if form not in seen:
            seen.add(form)
            yield form


class Meanings:
    """Draws clauses, none twice: what one part of the corpus says, no other part says. Titles may come again."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"meanings {seed}")
        self.seen: set[Meaning] = set()
        self.cumulative = {
            class_: list(accumulate(1 / (rank + 1) for rank in range(count))) for class_, count in CONCEPTS.items()
        }

    def draw(self, count: int, title_share: float = 0.0) -> list[Meaning]:
        """New clauses, and among them a share of titles. Raises ValueError when the grammar has too few clauses left."""
        return [self.title() if self._chance(title_share) else self._clause() for _ in range(count)]

    def title(self) -> Meaning:
        """One concept of any class."""
        class_ = self.rng.choice(list(CONCEPTS))
        concept = self._concept(class_, used=set())
        if class_ in Meaning._fields:
            return Meaning(**{class_: concept})  # type: ignore[arg-type]
        return Meaning(subject=Phrase(**{class_: concept}))

    def _clause(self) -> Meaning:
        for _ in range(REDRAWS):
            meaning = self._any_clause()
            if meaning not in self.seen:
                self.seen.add(meaning)
                return meaning
        raise ValueError(f"sample: no new clause after {len(self.seen)}; ask for fewer pairs or documents")

    def _any_clause(self) -> Meaning:
        used: set[Concept] = set()
        return Meaning(
            verb=self._concept("verb", used),
            subject=self._phrase(used),
            object=self._phrase(used) if self._chance(OBJECT_SHARE) else None,
            place=self._phrase(used, with_adposition=True) if self._chance(PLACE_SHARE) else None,
            adverb=self._concept("adverb", used) if self._chance(ADVERB_SHARE) else None,
        )

    def _phrase(self, used: set[Concept], with_adposition: bool = False) -> Phrase:
        return Phrase(
            noun=self._concept("noun", used),
            adjective=self._concept("adjective", used) if self._chance(ADJECTIVE_SHARE) else None,
            adposition=self._concept("adposition", used) if with_adposition else None,
        )

    def _concept(self, class_: str, used: set[Concept]) -> Concept:
        """A concept that this sentence does not have yet, so that every slot is unique in it."""
        ranks, cumulative = range(CONCEPTS[class_]), self.cumulative[class_]
        while True:
            concept = (class_, self.rng.choices(ranks, cum_weights=cumulative)[0])
            if concept not in used:
                used.add(concept)
                return concept

    def _chance(self, share: float) -> bool:
        return self.rng.random() < share


def alignment(source: list[Word], target: list[Word]) -> list[tuple[int, int]]:
    """The links between two sentences of one meaning, 0-based and in the source's order."""
    target_of = {word.slot: index for index, word in enumerate(target) if word.slot is not None}
    return [(index, target_of[word.slot]) for index, word in enumerate(source) if word.slot in target_of]


def write_sample(
    out: Path,
    seed: int = 0,
    *,
    pairs: int = 8_000,
    mono_documents: int = 400,
    valid_pairs: int = 200,
    gold_pairs: int = 200,
    task_items: int = 1_000,
) -> dict:
    """Write a corpus of all `GRAMMARS` under `out`; the same arguments give the same bytes anywhere.

    Written are `mono/{a}.txt` in CC-100's layout, `parallel/train.{a}-{b}.{a|b}` in Moses' for every two languages, both
    again for validation under `valid/`, and `gold/{a}-{b}/` with `test.{a}`, `test.{b}` (words apart in every language)
    and `alignv2.txt`. `tasks/` has two that `finetune` takes, for transfer between languages, with `train-{a}.tsv`,
    `dev-{a}.tsv` and `test-{a}.tsv` each: `object`, a clause and its object to be written, and `class`, a word and its class
    a line. All three say other things than all else that is written, and the same in every language.

    Args:
        out: folder, made when it is not there; files of the same names are replaced.
        seed: chooses the vocabularies and what is said. The grammars stay.
        pairs: training pairs of every two languages.
        mono_documents: documents of 5 to 12 sentences per language.
        valid_pairs: validation pairs of every two languages; validation has a tenth of `mono_documents`.
        gold_pairs: aligned pairs of every two languages.
        task_items: training clauses of every language and task; a fifth of them each for dev and test.

    Returns:
        What was written: seed, languages, and the counts of sentences, pairs and links.

    Raises:
        ValueError: for a size below 1, or more sentences than the grammar has.
    """
    _check(
        pairs=pairs,
        mono_documents=mono_documents,
        valid_pairs=valid_pairs,
        gold_pairs=gold_pairs,
        task_items=task_items,
    )
    languages = [Language(grammar, seed) for grammar in GRAMMARS]
    meanings = Meanings(seed)
    codes = [language.grammar.code for language in languages]
    summary: dict = {"seed": seed, "languages": codes, "mono_sentences": {}, "pairs": {}, "gold_links": {}}
    # Held-out text first: it is a fair draw, and training text gets what is left.
    for source, target in combinations(languages, 2):
        name = f"{source.grammar.code}-{target.grammar.code}"
        summary["gold_links"][name] = _write_gold(out / "gold" / name, source, target, meanings.draw(gold_pairs))
        _write_pairs(out / "valid" / "parallel", f"valid.{name}", source, target, meanings.draw(valid_pairs))
        _write_pairs(out / "parallel", f"train.{name}", source, target, meanings.draw(pairs, TITLE_SHARE))
        summary["pairs"][name] = pairs
    for code, language in zip(codes, languages, strict=True):
        _write_documents(out / "valid" / "mono" / f"{code}.txt", language, meanings, -(-mono_documents // 10))
        written = _write_documents(out / "mono" / f"{code}.txt", language, meanings, mono_documents)
        summary["mono_sentences"][code] = written
    for part, items in (("train", task_items), ("dev", -(-task_items // 5)), ("test", -(-task_items // 5))):
        _write_tasks(out / "tasks", part, languages, meanings.draw(items))
    return summary


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"sample: {name} is {size}, it must be 1 or more")


def _write_pairs(folder: Path, stem: str, source: Language, target: Language, said: list[Meaning]) -> None:
    for language in (source, target):
        _write_lines(folder / f"{stem}.{language.grammar.code}", (language.write(meaning) for meaning in said))


def _write_gold(folder: Path, source: Language, target: Language, said: list[Meaning]) -> int:
    """Write held-out pairs with their links, numbered from 1 as the shared tasks do; returns the number of links."""
    sentences = {language: [language.say(meaning) for meaning in said] for language in (source, target)}
    for language, sentences_of in sentences.items():
        lines = (" ".join(word.form for word in words) for words in sentences_of)
        _write_lines(folder / f"test.{language.grammar.code}", lines)
    links = [
        f"{number} {i + 1} {j + 1} S"
        for number, (left, right) in enumerate(zip(sentences[source], sentences[target], strict=True), start=1)
        for i, j in alignment(left, right)
    ]
    _write_lines(folder / "alignv2.txt", links)
    return len(links)


def _write_tasks(folder: Path, part: str, languages: list[Language], said: list[Meaning]) -> None:
    for language in languages:
        code = language.grammar.code
        lines = (
            f"{language.write(meaning)}\t{language.write(Meaning(subject=meaning.object))}"
            for meaning in said
            if meaning.object is not None
        )
        _write_lines(folder / "object" / f"{part}-{code}.tsv", lines)
        sentences = ([f"{word.form}\t{_class_of(word)}" for word in language.say(meaning)] for meaning in said)
        _write_lines(folder / "class" / f"{part}-{code}.tsv", chain.from_iterable([*words, ""] for words in sentences))


def _class_of(word: Word) -> str:
    """The object's particle is an adposition, as the treebanks of Japanese have it: every class is in every language."""
    return "adposition" if word.slot is None else word.slot[0]


def _write_documents(path: Path, language: Language, meanings: Meanings, documents: int) -> int:
    """Write documents with a blank line between them; returns the number of sentences."""
    lengths = [meanings.rng.choice(range(5, 13)) for _ in range(documents)]
    texts = ([meanings.title(), *meanings.draw(length - 1)] for length in lengths)
    lines = chain.from_iterable([*(language.write(meaning) for meaning in text), ""] for text in texts)
    _write_lines(path, lines)
    return sum(lengths)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
