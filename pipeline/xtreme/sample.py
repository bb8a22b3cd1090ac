"""A miniature of XTREME: invented sentences of four languages in the layouts of all nine tasks, as its download leaves them.

The sentences are `data_prep.sample`'s, so that they are anybody's to use; what carries over from one language to another is
there to be learned, and nothing real is measured by it. Test files have no labels, as in XTREME's download; those are in
`labels/`, as XTREME's `evaluate.py` reads them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.files import write_text
from data_prep.sample import GRAMMARS, Concept, Grammar, Language, Meaning, Meanings, Phrase
from pipeline.xtreme.catalog import ENGLISH, TASKS

_LATIN, _HANGUL, _CYRILLIC = GRAMMARS
_CHINESE = Grammar(
    code="zh",
    clause=("subject", "adverb", "place", "verb", "object"),
    phrase=("adposition", "adjective", "noun"),
    syllables=tuple(chr(code) for code in range(0x4E00, 0x9000, 37)),
    lengths=(1, 2),
    spaces=False,
)
_GRAMMARS = (
    replace(_LATIN, code=ENGLISH),
    replace(_HANGUL, code="ko"),
    replace(_CYRILLIC, code="ru"),
    _CHINESE,
)
_TAGS = {"noun": "NOUN", "verb": "VERB", "adjective": "ADJ", "adverb": "ADV", "adposition": "ADP"}
_PARTICLE_TAG = "PART"
_ENTITIES = ("PER", "LOC", "ORG")
"""By the rank of a noun; every fourth one is no entity."""
_STOP = {"zh": "。", "ko": "."}
Pair = tuple[Meaning, Meaning, str]
Words = list[tuple[str, str]]


class _Sample:
    """What is drawn, in the order in which it is written."""

    def __init__(self, out: Path, items: int, seed: int) -> None:
        self.out, self.items = out, items
        self.rng = random.Random(f"xtreme {seed}")
        self.meanings = Meanings(seed)
        self.languages = [Language(grammar, seed) for grammar in _GRAMMARS]

    def of(self, task: str) -> list[Language]:
        """The languages that the task has."""
        return [language for language in self.languages if language.grammar.code in TASKS[task].languages]

    def write(self, name: str, text: str) -> None:
        write_text(self.out / name, text)

    def sizes(self) -> dict[str, int]:
        """Items of each part; training has most."""
        fewer = max(self.items // 3, 3)
        return {"train": self.items, "dev": fewer, "test": fewer}


def write_sample(out: Path, items: int = 60, seed: int = 0) -> list[str]:
    """Write the miniature; the same arguments give the same bytes.

    Args:
        out: a new folder, or an empty one.
        items: sentences, pairs or questions to train on, of every task; a third of that for dev and for test.
        seed: chooses vocabularies and sentences.

    Returns:
        The tasks' names.

    Raises:
        ValueError: the folder holds something, or there are to be fewer than 6 items.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is not empty; give a new folder")
    if items < 6:
        raise ValueError(f"--items {items}: give 6 or more, so that every label occurs")
    sample = _Sample(out, items, seed)
    _write_pairs(sample, "xnli", _inference)
    _write_pairs(sample, "pawsx", _paraphrase)
    _write_tagged(sample, "udpos", _parts_of_speech)
    _write_tagged(sample, "panx", _entities)
    _write_questions(sample)
    _write_mining(sample)
    _write_retrieval(sample)
    return list(TASKS)


def _write_pairs(sample: _Sample, task: str, draw: Any) -> None:
    """As XTREME's preprocessing writes them: tabs between columns, and the line ends of Python's csv module."""
    for part, count in sample.sizes().items():
        pairs: list[Pair] = [draw(sample, number) for number in range(count)]
        for language in sample.of(task):
            code = language.grammar.code
            if part == "train" and code != ENGLISH:
                continue
            sides = [(language.write(first), language.write(second), label) for first, second, label in pairs]
            shown = [row if part != "test" else row[:2] for row in sides]
            sample.write(f"{task}/{part}-{code}.tsv", "".join("\t".join(row) + "\r\n" for row in shown))
            if part == "test":
                sample.write(f"labels/{task}/test-{code}.tsv", "".join(f"{label}\n" for *_, label in sides))


def _inference(sample: _Sample, number: int) -> Pair:
    """What follows says less; what contradicts has another verb; what does neither speaks of the same subject."""
    (premise,) = sample.meanings.draw(1)
    label = ("entailment", "contradiction", "neutral")[number % 3]
    short = premise._replace(place=None, adverb=None)
    if label == "contradiction":
        short = short._replace(verb=_other(premise.verb, sample.rng))
    if label == "neutral":
        (other,) = sample.meanings.draw(1)
        short = other._replace(subject=premise.subject)
    return premise, short, label


def _paraphrase(sample: _Sample, number: int) -> Pair:
    """A sentence without its adverb means the same, one with subject and object exchanged does not."""
    (first,) = sample.meanings.draw(1)
    other = first.object or Phrase(noun=_other(first.subject.noun if first.subject else None, sample.rng))
    first = first._replace(object=other)
    if number % 2:
        return first, first._replace(adverb=None), "1"
    return first, first._replace(subject=other, object=first.subject), "0"


def _other(concept: Concept | None, rng: random.Random) -> Concept:
    """Another concept of the same class."""
    assert concept is not None, "clauses have a verb and a subject"
    return concept[0], (concept[1] + 1 + rng.randrange(3)) % 16


def _write_tagged(sample: _Sample, task: str, tags: Any) -> None:
    for part, count in sample.sizes().items():
        said = sample.meanings.draw(count)
        for language in sample.of(task):
            code = language.grammar.code
            if part == "train" and code != ENGLISH:
                continue
            tagged: list[Words] = [tags(language, meaning) for meaning in said]
            if part != "test":
                sample.write(f"{task}/{part}-{code}.tsv", _columns(tagged))
                continue
            sample.write(f"{task}/test-{code}.tsv", _columns([[(word, "") for word, _ in words] for words in tagged]))
            labels = "\n".join("".join(f"{tag}\n" for _, tag in words) for words in tagged)
            sample.write(f"labels/{task}/test-{code}.tsv", labels)


def _columns(sentences: Sequence[Words]) -> str:
    lines = ("".join(f"{word}\t{tag}\n" if tag else f"{word}\n" for word, tag in words) for words in sentences)
    return "\n".join(lines) + "\n"


def _parts_of_speech(language: Language, meaning: Meaning) -> Words:
    return [(word.form, _TAGS[word.slot[0]] if word.slot else _PARTICLE_TAG) for word in language.say(meaning)]


def _entities(language: Language, meaning: Meaning) -> Words:
    """A noun is an entity by its rank, and its adjective belongs to the name."""
    names: dict[Concept, tuple[int, str]] = {}
    for number, phrase in enumerate((meaning.subject, meaning.object, meaning.place)):
        if phrase is not None and phrase.noun is not None and phrase.noun[1] % 4 < len(_ENTITIES):
            kind = _ENTITIES[phrase.noun[1] % 4]
            names |= {concept: (number, kind) for concept in (phrase.noun, phrase.adjective) if concept is not None}
    tagged: Words = []
    last = -1
    for word in language.say(meaning):
        number, kind = names.get(word.slot, (-1, "")) if word.slot else (-1, "")
        tagged.append((word.form, "O" if number < 0 else f"{'I' if number == last else 'B'}-{kind}"))
        last = number
    return tagged


def _write_questions(sample: _Sample) -> None:
    """SQuAD to train on; XQuAD and MLQA, whose questions are the same in every language, and TyDiQA's, which are not."""
    sizes = sample.sizes()
    english = sample.languages[0]
    for part, count in (("train", sizes["train"]), ("dev", sizes["dev"])):
        sample.write(f"squad/{part}-v1.1.json", _squad(sample, english, _contexts(sample, count), f"{part}-"))
    for task, places in (
        ("xquad", {"test": "xquad/xquad.{}.json"}),
        ("mlqa", {part: f"mlqa/MLQA_V1/{part}/{part}-context-{{0}}-question-{{0}}.json" for part in ("dev", "test")}),
    ):
        for part, place in places.items():
            contexts = _contexts(sample, sizes["test"])
            for language in sample.of(task):
                _write_test(sample, task, language, contexts, place, labelled=part == "dev")
    for language in sample.of("tydiqa"):
        code = language.grammar.code
        train = f"tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.{code}.train.json"
        sample.write(train, _squad(sample, language, _contexts(sample, sizes["train"]), "train-"))
        _write_test(sample, "tydiqa", language, _contexts(sample, sizes["test"]), TASKS["tydiqa"].test_of(code), False)


def _write_test(
    sample: _Sample, task: str, language: Language, contexts: list[list[Meaning]], place: str, labelled: bool
) -> None:
    code = language.grammar.code
    sample.write(place.format(code), _squad(sample, language, contexts, f"{task}-", labelled))
    if not labelled:
        sample.write(f"labels/{task}/test-{code}.json", _squad(sample, language, contexts, f"{task}-"))


def _contexts(sample: _Sample, count: int) -> list[list[Meaning]]:
    """Three sentences each, all with an object, which is asked for."""
    contexts = [sample.meanings.draw(3) for _ in range(count)]
    return [
        [said if said.object else said._replace(object=_thing(said, sample.rng)) for said in three]
        for three in contexts
    ]


def _thing(said: Meaning, rng: random.Random) -> Phrase:
    return Phrase(noun=_other(said.subject.noun if said.subject else None, rng))


def _squad(sample: _Sample, language: Language, contexts: list[list[Meaning]], ids: str, labelled: bool = True) -> str:
    """SQuAD v1.1 with a question a context. An answer that is hidden is an empty text at 0, as in XTREME's download."""
    articles = []
    for number, three in enumerate(contexts):
        asked = number % len(three)
        sentences = [language.write(said) + _STOP.get(language.grammar.code, ".") for said in three]
        gap = " " if language.grammar.spaces else ""
        context = gap.join(sentences)
        answer = language.write(Meaning(object=three[asked].object))
        if language.grammar.marks_object:
            answer = answer.removesuffix(language.particle.form)
        start = context.index(answer, len(gap.join(sentences[:asked])))
        question = language.write(Meaning(verb=three[asked].verb, subject=three[asked].subject)) + "?"
        answers = [{"answer_start": start, "text": answer} if labelled else {"answer_start": 0, "text": ""}]
        record = {"answers": answers, "question": question, "id": f"{ids}{number}"}
        articles.append({"paragraphs": [{"context": context, "qas": [record]}]})
    return json.dumps({"data": articles, "version": "1.1"}, ensure_ascii=False)


def _write_mining(sample: _Sample) -> None:
    """BUCC: half of each side has a translation on the other; the pairs of `dev` are known."""
    for language in sample.of("bucc2018"):
        code = language.grammar.code
        for part in ("dev", "test"):
            shared = sample.meanings.draw(sample.sizes()[part])
            gold = []
            for side, of_side in ((code, language), (ENGLISH, sample.languages[0])):
                said = [*shared, *sample.meanings.draw(len(shared))]
                order = sample.rng.sample(range(len(said)), len(said))
                ids = {place: f"{side}-{number:06d}" for number, place in enumerate(order)}
                lines = (f"{ids[place]}\t{of_side.write(said[place])}\n" for place in order)
                sample.write(f"bucc2018/{code}-en.{part}.{side}", "".join(lines))
                gold.append([ids[place] for place in range(len(shared))])
            pairs = "".join(f"{first}\t{second}\n" for first, second in zip(*gold, strict=True))
            sample.write(f"bucc2018/{code}-en.dev.gold" if part == "dev" else f"labels/bucc2018/test-{code}.tsv", pairs)


def _write_retrieval(sample: _Sample) -> None:
    """Tatoeba: XTREME sorts the English side, so that the order tells nothing."""
    english = sample.languages[0]
    for language in sample.of("tatoeba"):
        code = language.grammar.code
        said = sample.meanings.draw(sample.items)
        texts = [english.write(meaning) for meaning in said]
        order = sorted(range(len(said)), key=lambda at: texts[at])
        sample.write(f"tatoeba/{code}-en.{code}", _lines(language.write(meaning) for meaning in said))
        sample.write(f"tatoeba/{code}-en.en", _lines(texts[at] for at in order))
        sample.write(f"labels/tatoeba/test-{code}.tsv", _lines(map(str, order)))


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
