"""Four sentences with names, and their translations with the labels that these must get, written by hand."""

from __future__ import annotations

from pipeline.finetune.files.read_tagged import Sentence

ENGLISH = (
    "Angela/B-PER Merkel/I-PER was/O born/O in/O Hamburg/B-LOC ./O",
    "The/O European/B-ORG Central/I-ORG Bank/I-ORG is/O in/O Frankfurt/B-LOC ./O",
    "In/O New/B-LOC York/I-LOC ,/O Peter/B-PER Smith/I-PER works/O for/O Microsoft/B-ORG ./O",
    "The/O University/B-ORG of/I-ORG Oslo/I-ORG was/O founded/O in/O Norway/B-LOC ./O",
)
TRANSLATIONS = {
    "de": (
        "Angela/B-PER Merkel/I-PER wurde/O in/O Hamburg/B-LOC geboren/O ./O",
        "Die/O Europäische/B-ORG Zentralbank/I-ORG ist/O in/O Frankfurt/B-LOC ./O",
        "In/O New/B-LOC York/I-LOC arbeitet/O Peter/B-PER Smith/I-PER für/O Microsoft/B-ORG ./O",
        "Die/O Universität/B-ORG Oslo/I-ORG wurde/O in/O Norwegen/B-LOC gegründet/O ./O",
    ),
    "ru": (
        "Ангела/B-PER Меркель/I-PER родилась/O в/O Гамбурге/B-LOC ./O",
        "Европейский/B-ORG центральный/I-ORG банк/I-ORG находится/O во/O Франкфурте/B-LOC ./O",
        "В/O Нью-Йорке/B-LOC Питер/B-PER Смит/I-PER работает/O на/O Microsoft/B-ORG ./O",
        "Университет/B-ORG Осло/I-ORG был/O основан/O в/O Норвегии/B-LOC ./O",
    ),
    "zh": (
        "安格拉/B-PER ·/I-PER 默克尔/I-PER 出生/O 于/O 汉堡/B-LOC 。/O",
        "欧洲/B-ORG 中央/I-ORG 银行/I-ORG 位于/O 法兰克福/B-LOC 。/O",
        "在/O 纽约/B-LOC ，/O 彼得/B-PER ·/I-PER 史密斯/I-PER 为/O 微软/B-ORG 工作/O 。/O",
        "奥斯陆/B-ORG 大学/I-ORG 在/O 挪威/B-LOC 成立/O 。/O",
    ),
    "ar": (
        "ولدت/O أنغيلا/B-PER ميركل/I-PER في/O هامبورغ/B-LOC ./O",
        "يقع/O البنك/B-ORG المركزي/I-ORG الأوروبي/I-ORG في/O فرانكفورت/B-LOC ./O",
        "في/O نيويورك/B-LOC ،/O يعمل/O بيتر/B-PER سميث/I-PER في/O مايكروسوفت/B-ORG ./O",
        "تأسست/O جامعة/B-ORG أوسلو/I-ORG في/O النرويج/B-LOC ./O",
    ),
}


def labelled(sentences: tuple[str, ...]) -> list[Sentence]:
    """The sentences' words and labels."""
    split = [[word.rsplit("/", 1) for word in sentence.split()] for sentence in sentences]
    return [Sentence([word for word, _ in words], [label for _, label in words]) for words in split]
