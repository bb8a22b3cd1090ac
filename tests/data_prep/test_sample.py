"""The generated corpus: the same bytes for a seed, honest held-out pairs, and alignments that are right by construction."""

from itertools import combinations
from pathlib import Path

import pytest

from data_prep.sample import GRAMMARS, Language, Meaning, Phrase, alignment, write_sample

SIZES = {"pairs": 300, "mono_documents": 20, "valid_pairs": 30, "gold_pairs": 40}
CODES = [grammar.code for grammar in GRAMMARS]
PAIRS = list(combinations(CODES, 2))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    write_sample(out, seed=0, **SIZES)
    return out


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def read_pairs(folder: Path, stem: str, source: str, target: str) -> list[tuple[str, str]]:
    return list(zip(read_lines(folder / f"{stem}.{source}"), read_lines(folder / f"{stem}.{target}"), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def running_text(code: str, words: str) -> str:
    """A gold line, whose words are apart in every language, as the language writes it."""
    spaces = next(grammar.spaces for grammar in GRAMMARS if grammar.code == code)
    return words if spaces else words.replace(" ", "")


def gold_links(corpus: Path, source: str, target: str) -> list[tuple[int, int, int]]:
    rows = [line.split() for line in read_lines(corpus / "gold" / f"{source}-{target}" / "alignv2.txt")]
    assert all(kind == "S" for *_, kind in rows)
    return [(int(number), int(i), int(j)) for number, i, j, _ in rows]


def test_same_seed_gives_same_bytes(corpus: Path, tmp_path: Path) -> None:
    write_sample(tmp_path, seed=0, **SIZES)
    assert contents(tmp_path) == contents(corpus)


def test_other_seed_gives_other_vocabulary() -> None:
    for grammar in GRAMMARS:
        first, second = ({word.form for word in Language(grammar, seed).word_of.values()} for seed in (0, 1))
        assert len(first & second) < len(first) / 4


def test_no_two_languages_and_no_two_concepts_share_a_word() -> None:
    forms = [
        word.form
        for language in (Language(grammar, 0) for grammar in GRAMMARS)
        for word in (language.particle, *language.word_of.values())
    ]
    assert len(forms) == len(set(forms))


def test_layout_is_complete(corpus: Path) -> None:
    expected = {f"{part}mono/{code}.txt" for part in ("", "valid/") for code in CODES}
    for source, target in PAIRS:
        name = f"{source}-{target}"
        expected |= {f"parallel/train.{name}.{code}" for code in (source, target)}
        expected |= {f"valid/parallel/valid.{name}.{code}" for code in (source, target)}
        expected |= {f"gold/{name}/{file}" for file in (f"test.{source}", f"test.{target}", "alignv2.txt")}
    for task in ("object", "class"):
        expected |= {f"tasks/{task}/{part}-{code}.tsv" for part in ("train", "dev", "test") for code in CODES}
    assert set(contents(corpus)) == expected


def test_summary_counts_what_was_written(tmp_path: Path) -> None:
    summary = write_sample(tmp_path, seed=3, **SIZES)
    assert summary["seed"] == 3 and summary["languages"] == CODES
    for source, target in PAIRS:
        name = f"{source}-{target}"
        assert summary["pairs"][name] == SIZES["pairs"] == len(read_lines(tmp_path / f"parallel/train.{name}.{source}"))
        assert summary["gold_links"][name] == len(gold_links(tmp_path, source, target))
    for code in CODES:
        sentences = [line for line in read_lines(tmp_path / f"mono/{code}.txt") if line]
        assert summary["mono_sentences"][code] == len(sentences)


def test_a_blank_line_ends_every_mono_document(corpus: Path) -> None:
    for code in CODES:
        text = (corpus / "mono" / f"{code}.txt").read_text(encoding="utf-8")
        assert text.endswith("\n\n")
        documents = text.removesuffix("\n\n").split("\n\n")
        assert len(documents) == SIZES["mono_documents"]
        assert all(5 <= len(document.split("\n")) <= 12 and "" not in document.split("\n") for document in documents)


def test_held_out_clauses_are_nowhere_in_training_or_validation(corpus: Path) -> None:
    for code in CODES:
        others = [*corpus.glob(f"parallel/*.{code}"), *corpus.glob(f"valid/*/*.{code}")]
        others += [corpus / "mono" / f"{code}.txt", corpus / "valid" / "mono" / f"{code}.txt"]
        seen = {line for path in others for line in read_lines(path)}
        gold = {running_text(code, line) for path in corpus.glob(f"gold/*/test.{code}") for line in read_lines(path)}
        assert gold and not gold & seen


def test_validation_pairs_are_not_in_training(corpus: Path) -> None:
    for source, target in PAIRS:
        name = f"{source}-{target}"
        train = read_pairs(corpus / "parallel", f"train.{name}", source, target)
        valid = read_pairs(corpus / "valid" / "parallel", f"valid.{name}", source, target)
        assert not set(train) & set(valid)


def test_gold_links_are_in_range_and_one_to_one(corpus: Path) -> None:
    for source, target in PAIRS:
        sentences = read_pairs(corpus / "gold" / f"{source}-{target}", "test", source, target)
        links = gold_links(corpus, source, target)
        assert {number for number, _, _ in links} == set(range(1, len(sentences) + 1))
        for number, (left, right) in enumerate(sentences, start=1):
            rows, columns = zip(*((i, j) for n, i, j in links if n == number), strict=True)
            assert len(set(rows)) == len(rows) and min(rows) >= 1 and max(rows) <= len(left.split())
            assert len(set(columns)) == len(columns) and min(columns) >= 1 and max(columns) <= len(right.split())


def test_every_content_word_is_linked_to_its_translation(corpus: Path) -> None:
    language_of = {grammar.code: Language(grammar, 0) for grammar in GRAMMARS}
    for source, target in PAIRS:
        sentences = read_pairs(corpus / "gold" / f"{source}-{target}", "test", source, target)
        links = gold_links(corpus, source, target)
        concept_of = {
            code: {word.form: concept for concept, word in language_of[code].word_of.items()}
            for code in (source, target)
        }
        for number, (left, right) in enumerate(sentences, start=1):
            concepts = [concept_of[source].get(word) for word in left.split()]
            partners = [concept_of[target].get(word) for word in right.split()]
            expected = {
                (i + 1, partners.index(concept) + 1) for i, concept in enumerate(concepts) if concept is not None
            }
            assert {(i, j) for n, i, j in links if n == number} == expected


def test_only_the_object_particle_stays_unlinked() -> None:
    svo, sov, _ = (Language(grammar, 0) for grammar in GRAMMARS)
    meaning = Meaning(verb=("verb", 1), subject=Phrase(("noun", 2)), object=Phrase(("noun", 3), ("adjective", 0)))
    source, target = svo.say(meaning), sov.say(meaning)
    assert [word.slot for word in source] == [("noun", 2), ("verb", 1), ("adjective", 0), ("noun", 3)]
    assert target[3] == sov.particle
    assert alignment(source, target) == [(0, 0), (1, 4), (2, 2), (3, 1)]


def test_running_text_has_spaces_only_where_the_language_has(corpus: Path) -> None:
    for grammar in GRAMMARS:
        paths = [*corpus.glob(f"parallel/*.{grammar.code}"), *corpus.glob(f"valid/parallel/*.{grammar.code}")]
        paths += [corpus / "mono" / f"{grammar.code}.txt", corpus / "valid" / "mono" / f"{grammar.code}.txt"]
        assert any(" " in line for path in paths for line in read_lines(path)) == grammar.spaces


def test_languages_differ_in_word_order() -> None:
    assert len({grammar.clause for grammar in GRAMMARS}) == len(GRAMMARS)
    assert len({grammar.phrase for grammar in GRAMMARS}) == len(GRAMMARS)


@pytest.mark.parametrize("field", list(SIZES))
def test_size_below_one_is_refused_before_anything_is_written(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0"):
        write_sample(tmp_path / "out", **{**SIZES, field: 0})
    assert not (tmp_path / "out").exists()


def test_tasks_say_the_same_in_every_language_and_nothing_that_stands_elsewhere(corpus: Path) -> None:
    objects = {code: read_lines(corpus / "tasks" / "object" / f"test-{code}.tsv") for code in CODES}
    classes = {code: (corpus / "tasks" / "class" / f"test-{code}.tsv").read_text(encoding="utf-8") for code in CODES}
    assert len({len(lines) for lines in objects.values()}) == 1
    assert {text.count("\n\n") for text in classes.values()} == {200}
    trained = {line for path in (corpus / "parallel").iterdir() for line in read_lines(path)}
    for code in CODES:
        learned = {line.split("\t")[0] for line in read_lines(corpus / "tasks" / "object" / f"train-{code}.tsv")}
        for line in objects[code]:
            clause, asked = line.split("\t")
            assert asked in clause and asked != clause and clause not in trained | learned


def test_a_word_has_the_class_of_its_concept(corpus: Path) -> None:
    """Sentence by sentence the languages have equal classes, in orders of their own, but for the particle of objects."""
    counted = {}
    for code in CODES:
        text = (corpus / "tasks" / "class" / f"test-{code}.tsv").read_text(encoding="utf-8")
        sentences = [[line.split("\t") for line in sentence.split("\n")] for sentence in text.strip().split("\n\n")]
        particle = Language(next(g for g in GRAMMARS if g.code == code), 0).particle.form
        counted[code] = [sorted(tag for word, tag in sentence if word != particle) for sentence in sentences]
    assert counted["qaa"] == counted["qab"] == counted["qac"]
    assert {tag for sentence in counted["qaa"] for tag in sentence} == {
        "noun",
        "verb",
        "adjective",
        "adverb",
        "adposition",
    }
