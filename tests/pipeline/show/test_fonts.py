"""Pictures of words in every script: real glyphs where the machine has fonts, a word about it where it has none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.show import fonts
from pipeline.show.fonts import MissingFontsError, drawn_as_they_are
from pipeline.show.pair_view import PairView
from pipeline.show.picture import draw_alignments, draw_heat_map
from tests.pipeline.conftest import Done

# "hello" or the language's own name, in the scripts of CC-100's languages.
WORDS = [
    "hello",
    "γειά",
    "Привет",
    "Բարեւ",
    "שלום",
    "مرحبا",
    "नमस्ते",
    "বাংলা",
    "ਪੰਜਾਬੀ",
    "ગુજરાતી",
    "ଓଡ଼ିଆ",
    "தமிழ்",
    "తెలుగు",
    "ಕನ್ನಡ",
    "മലയാളം",
    "සිංහල",
    "สวัสดี",
    "ລາວ",
    "မြန်မာ",
    "ខ្មែរ",
    "გამარჯობა",
    "አማርኛ",
    "안녕하세요",
    "こんにちは",
    "你好",
    "許多",
    "ئۇيغۇر",
    "پښتو",
]
BOXES = "LastResort"


def view(words: list[str]) -> PairView:
    return PairView(words, words, [[1.0] * len(words)] * len(words), {(0, 0): 1.0})


@pytest.fixture
def many_fonts() -> None:
    if not any("NotoSansCJK" in path for path in fonts._font_files()):
        pytest.skip("fonts of all scripts are not here: install fonts-noto-core and fonts-noto-cjk")


@pytest.mark.usefixtures("many_fonts")
def test_every_script_is_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each glyph that it draws as a box
        draw_heat_map(view(WORDS), tmp_path / "heat.png")
        draw_alignments(WORDS, WORDS, set(), [[(0, 0)]], tmp_path / "grid.png", ["links"])
    for name in ("heat.png", "grid.png"):
        assert Image.open(tmp_path / name).size[0] > 1000


@pytest.mark.usefixtures("many_fonts")
@pytest.mark.parametrize("word", WORDS)
def test_each_character_has_a_font_that_has_it(word: str) -> None:
    with drawn_as_they_are([word]):
        families = fonts._families(set(word))
    paths = [fonts.font_manager.findfont(family, fallback_to_default=False) for family in families]
    drawable = {letter for letter in word if fonts.unicodedata.category(letter) not in fonts._NOT_DRAWN}
    assert {letter for letter in drawable if not any(ord(letter) in fonts._characters(path) for path in paths)} == set()
    assert not [path for path in paths if BOXES in path]


def test_dollars_and_underscores_are_drawn_as_they_are(tmp_path: Path) -> None:
    words = ["a", "$5%-$10%", "x_1^2", "\\frac", "$"]
    draw_heat_map(view(words), tmp_path / "x.png")
    draw_alignments(words, words, set(), [[(0, 0)]], tmp_path / "y.png", ["$x$ of a_b"])
    formula, letters = tmp_path / "formula.png", tmp_path / "letters.png"
    draw_heat_map(view(["$x$"]), formula)
    draw_heat_map(view(["x"]), letters)
    assert Image.open(formula).tobytes() != Image.open(letters).tobytes()


def test_without_a_font_one_line_tells_the_scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fonts, "_font_files", lambda: (fonts._path_of_usual(),))
    with pytest.raises(
        MissingFontsError, match=r"no font on this machine has .*\(Devanagari\), .*\(Cjk\); install fonts"
    ):
        draw_heat_map(view(["नम", "你"]), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_show_writes_html_where_there_is_no_font_and_says_so(
    use: Callable[..., Done], hf_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "_font_files", lambda: (fonts._path_of_usual(),))
    done = use("show", hf_dir, "the 你好", "der fuchs", "--out", tmp_path / "pair.png")
    assert done.code == 0, done.err
    assert "pair.png is written as .html: no font on this machine has" in done.err
    assert done.out.rstrip().endswith("pair.html")
    assert "你好" in (tmp_path / "pair.html").read_text(encoding="utf-8")
    assert not (tmp_path / "pair.png").exists()
