"""Gold alignments: both formats, what is refused and in which words, and the scores of cases worked by hand."""

import pytest

from pipeline.evaluate.gold import read_gold, score_links

DEV = [f"en-{language}" for language in ("bg", "cs", "da", "es", "et", "hu", "it", "nl", "pt", "ru", "sl")]


@pytest.fixture
def folder(tmp_path):
    """A gold folder of two pairs, without links yet."""
    path = tmp_path / "en-de"
    path.mkdir()
    (path / "test.en").write_text("the house\nI saw it\n")
    (path / "test.de").write_text("das Haus\nich habe es gesehen\n")
    return path


def test_alignv2_counts_from_one_and_possible_links_hold_the_sure_ones(folder):
    (folder / "alignv2.txt").write_text("1 1 1 S\n1 2 2\n2 1 1 S\n2 2 2 P\n2 2 4 S\n")
    gold = read_gold(folder)
    assert (gold.source_language, gold.target_language, len(gold)) == ("en", "de", 2)
    assert gold.target[1] == ["ich", "habe", "es", "gesehen"]
    assert gold.sure == [{(0, 0), (1, 1)}, {(0, 0), (1, 3)}]
    assert gold.possible == [{(0, 0), (1, 1)}, {(0, 0), (1, 1), (1, 3)}]
    assert gold.first(1).possible == gold.possible[:1]


def test_pharaoh_says_the_same_counting_from_zero(folder):
    (folder / "alignv2.txt").write_text("1 1 1 S\n2 2 2 P\n2 2 4 S\n")
    from_alignv2 = read_gold(folder)
    (folder / "alignv2.txt").unlink()
    (folder / "pharaoh.txt").write_text("0-0\n1p1 1-3\n")
    assert read_gold(folder) == from_alignv2


def test_links_past_the_sentence_end_are_counted_and_kept(folder):
    (folder / "alignv2.txt").write_text("1 1 1 S\n1 3 1 S\n2 1 9 P\n")
    gold = read_gold(folder)
    assert gold.links_past_the_end == 2
    assert gold.first(1).links_past_the_end == 1
    assert score_links([{(0, 0)}, set()], gold).recall == 1 / 2


def test_scores_of_a_case_worked_by_hand(folder):
    (folder / "alignv2.txt").write_text("1 1 1 S\n1 2 2 S\n2 1 1 S\n2 2 2 P\n2 2 4 S\n2 3 3 S\n")
    # A has 5 links: 3 of the 5 sure ones, one merely possible, one wrong.
    score = score_links([[(0, 0), (1, 1)], [(0, 0), (1, 1), (2, 0)]], read_gold(folder))
    assert score.links == 5
    assert score.precision == pytest.approx(4 / 5)
    assert score.recall == pytest.approx(3 / 5)
    assert score.f1 == pytest.approx(2 * 0.8 * 0.6 / 1.4)
    assert score.aer == pytest.approx(1 - (3 + 4) / (5 + 5))


def test_scores_are_sums_over_the_corpus_not_means_of_pairs(folder):
    (folder / "alignv2.txt").write_text("1 1 1 S\n2 1 1 S\n2 2 2 S\n2 3 3 S\n")
    score = score_links([[], [(0, 0), (1, 1), (2, 2)]], read_gold(folder))
    assert score.recall == pytest.approx(3 / 4)
    assert score.aer == pytest.approx(1 - 6 / 7)


def test_no_links_at_all_score_zero_and_an_error_rate_of_one(folder):
    (folder / "alignv2.txt").write_text("1 1 1 S\n")
    score = score_links([[], []], read_gold(folder))
    assert (score.aer, score.precision, score.recall, score.f1, score.links) == (1.0, 0.0, 0.0, 0.0, 0)


def test_links_of_another_number_of_pairs_are_refused(folder):
    (folder / "alignv2.txt").write_text("1 1 1 S\n")
    with pytest.raises(ValueError, match="links of 1 pairs, but the gold has 2"):
        score_links([[]], read_gold(folder))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 1", r"alignv2.txt:2: '1 1' is not `pair source target \[S\|P\] \[confidence\]`"),
        ("1 1 x S", r"alignv2.txt:2: '1 1 x S' is not"),
        ("1 1 1 Q", r"alignv2.txt:2: '1 1 1 Q' is not"),
        ("5 1 1 S\n6 1 1 S", r"alignv2.txt: 3 pairs, numbered from 1 to 6, but 2 lines in test.en and test.de"),
    ],
)
def test_bad_alignv2_names_file_line_value_and_what_to_do(folder, line, message):
    (folder / "alignv2.txt").write_text(f"1 1 1 S\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_gold(folder)


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ((1, 2), None),
        ((0, 1), "numbers the pairs from 0"),
        ((26, 27), "numbers its 2 pairs from 26 to 27, and test.en and test.de have 2 lines: taken in the order"),
        ((1, 4), "numbers its 2 pairs from 1 to 4"),
        ((9, 3), "numbers its 2 pairs from 3 to 9"),
    ],
)
def test_pairs_go_by_their_numbers_or_in_their_order_and_it_is_said(folder, numbers, note):
    (folder / "alignv2.txt").write_text("".join(f"{n} {w} 1 S\n" for n, w in zip(numbers, (1, 2), strict=True)))
    gold = read_gold(folder)
    assert gold.sure == [{(0, 0)}, {(1, 0)}]
    assert (note is None) == (not gold.notes)
    assert note is None or note in gold.notes[0]


def test_a_pair_without_links_keeps_its_place(folder):
    (folder / "alignv2.txt").write_text("2 1 1\n")
    assert read_gold(folder).sure == [set(), {(0, 0)}]


def test_links_to_nothing_outside_or_said_twice_are_counted_and_said(folder):
    (folder / "alignv2.txt").write_text("1 1 1 S 1.0\n1 0 2 S 0.5\n2 2 0\n2 2 -99\n1 1 1 P\n2 1 1 P 0.25\n2 2 2 0.5\n")
    gold = read_gold(folder)
    assert gold.sure == [{(0, 0)}, {(1, -100), (1, 1)}]
    assert gold.possible == [{(0, 0)}, {(1, -100), (1, 1), (0, 0)}]
    assert gold.links_past_the_end == 1
    assert [note.split(": ", 1)[1].split(" ")[:2] for note in gold.notes] == [
        ["2", "links"],
        ["1", "links"],
        ["1", "links"],
    ]
    assert "no word (0)" in gold.notes[0]
    assert "more than once" in gold.notes[1]
    assert "sentence does not have" in gold.notes[2]


@pytest.mark.parametrize("name", ["pharaoh.txt", "deen.talp", "links.gold", "x.align"])
@pytest.mark.parametrize(
    "text",
    [
        "0-0 1-1\n0-0 1p1 1-3\n",
        "\ufeff0-0 1-1\r\n0-0 1?1 1-3\r\n",
        "1-1 2-2\n1-1 2x2 2-4\n",
        "1s1 2S2\n1s1 2P2 2-4\n",
        "1-1:0.9 2-2:1e-3\n1-1:1 2p2:0.5 2-4:.5\n".replace(":.5", ":0.5"),
        "0\t0-0 1-1\n1\t0-0 1p1 1-3\n",
        "17\t0-0 1-1\n23\t0-0 1p1 1-3\n",
        "1 1 1 S\n1 2 2 S\n2 1 1 S\n2 2 2 P\n2 2 4 S\n",
        "1 1 1\n1 2 2 S 0.5\n2 1 1 s\n2 2 2 P 1\n2 2 4 1.0\n",
        "0 0 0 S\n0 1 1 S\n1 0 0 S\n1 1 1 P\n1 1 3 S\n",
    ],
)
def test_every_form_of_gold_says_the_same(folder, name, text):
    (folder / "test.en").write_text("\ufeffthe house\nI saw\n")
    (folder / name).write_text(text)
    gold = read_gold(folder)
    assert gold.source == [["the", "house"], ["I", "saw"]]
    assert gold.sure == [{(0, 0), (1, 1)}, {(0, 0), (1, 3)}]
    assert gold.possible == [{(0, 0), (1, 1)}, {(0, 0), (1, 1), (1, 3)}]
    assert score_links(gold.sure, gold).aer == 0.0


@pytest.mark.parametrize("stray", ["1--99", "-99-1", "7-7"])
def test_a_link_to_no_word_of_the_sentence_leaves_no_doubt_where_words_count_from(folder, stray):
    """The German-English set of RWTH Aachen counts from 1 and has a link to word -99."""
    (folder / "deen.talp").write_text(f"1-1 2p2 {stray}\n1-1 3-4\n")
    gold = read_gold(folder)
    assert [links - {(0, 0), (2, 3)} for links in gold.sure] == [gold.sure[0] - {(0, 0)}, set()]
    assert gold.links_past_the_end == 1 and len(gold.possible[0]) == 3
    assert "the links count words from 1" in gold.notes[0] and "1 links name words that their sentence" in gold.notes[1]
    assert score_links(gold.possible, gold).precision == 1


def test_talp_that_counts_from_1_may_link_words_to_none(folder):
    pair = "1-1 2-2 0-1 2-0\n"
    for name in ("test.en", "test.de"):
        (folder / name).write_text("a b\n" * 6)
    (folder / "deen.talp").write_text(pair * 6)
    gold = read_gold(folder)
    assert gold.sure == [{(0, 0), (1, 1)}] * 6
    assert "0 is no word" in gold.notes[0] and "12 links to no word (0) are left out" in gold.notes[1]
    (folder / "deen.talp").write_text("0-0 1-1 2-0\n" * 6)
    assert read_gold(folder).sure == [{(0, 0), (1, 1), (2, 0)}] * 6, "0-0 is a link, so that 2 is a word outside"


def test_where_words_count_from_may_be_said(folder):
    (folder / "deen.talp").write_text("1-1 0-2\n1-1 2-2\n")
    assert read_gold(folder).sure == [{(1, 1), (0, 2)}, {(1, 1), (2, 2)}]
    told = read_gold(folder, from_one=True)
    assert told.sure == [{(0, 0)}, {(0, 0), (1, 1)}]
    assert "1 links to no word (0) are left out" in told.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-0\n1-1 1:2\n", r"pharaoh.txt:2: '1:2' is not a link; write `i-j`"),
        ("0-0\n", r"pharaoh.txt: 1 lines, but 2 pairs in test.en and test.de"),
    ],
)
def test_bad_pharaoh_names_file_line_value_and_what_to_do(folder, text, message):
    (folder / "pharaoh.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_gold(folder)


def test_a_folder_without_links_or_texts_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"has neither alignv2.txt nor pharaoh.txt, nor one file of links"):
        read_gold(folder)
    with pytest.raises(ValueError, match=r"test.fr: no such file"):
        read_gold(folder, "en", "fr")
    with pytest.raises(ValueError, match=r"one language was given, 'en'"):
        read_gold(folder, "en")
    renamed = folder.rename(tmp_path / "gold")
    with pytest.raises(ValueError, match=r"test files here: test.de, test.en\); name the folder <source>-<target>"):
        read_gold(renamed)
    (renamed / "alignv2.txt").write_text("1 1 1 S\n")
    assert read_gold(renamed, "de", "en").source_language == "de"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"en-xx: no such folder; give one with test\.<source>"):
        read_gold(tmp_path / "en-xx")


def test_unequal_line_counts_are_refused(folder):
    (folder / "test.de").write_text("das Haus\n")
    with pytest.raises(ValueError, match=r"test.en: 2 lines, .*test.de has 1"):
        read_gold(folder)


def test_invalid_utf8_is_refused_with_its_line(folder):
    (folder / "test.de").write_bytes(b"das Haus\nich \xff es\n")
    with pytest.raises(ValueError, match=r"test.de:2: byte 0xff at 4 is not UTF-8"):
        read_gold(folder)


def test_lines_end_at_newlines_and_words_at_ascii_space_only(folder):
    (folder / "test.en").write_bytes("10\u00a0000 houses\u2028here\r\nx\n".encode())
    (folder / "alignv2.txt").write_text("1 1 1 S\n")
    assert read_gold(folder).source[0] == ["10\u00a0000", "houses\u2028here"]


@pytest.mark.shared
@pytest.mark.parametrize("pair", DEV)
def test_both_formats_of_the_dev_set_agree(pair, shared_dir, tmp_path):
    original = shared_dir / "data" / "gold_alignments_dev" / pair
    gold = read_gold(original)
    copy = tmp_path / pair
    copy.mkdir()
    for name in (f"test.{gold.source_language}", f"test.{gold.target_language}", "pharaoh.txt"):
        (copy / name).symlink_to(original / name)
    assert read_gold(copy) == gold
    assert gold.links_past_the_end == (1 if pair == "en-cs" else 0)
    assert score_links(gold.sure, gold).aer == 0.0
