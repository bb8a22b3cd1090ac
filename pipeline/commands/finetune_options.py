"""Options of the command `finetune`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Kind(str, Enum):
    """What is predicted: a label for a sentence pair, a tag for every word, a span that answers a question, or a text."""

    classify = "classify"
    tag = "tag"
    qa = "qa"
    generate = "generate"


KindArgument = Annotated[
    Kind, typer.Argument(help="classify: sentence pairs; tag: words; qa: SQuAD v1.1; generate: texts")
]

# Files.
TrainOption = Annotated[list[str], typer.Option(help="FILE or LANGUAGE=FILE; may be repeated")]
TestOption = Annotated[list[str], typer.Option(help="FILE or LANGUAGE=FILE, one a language; may be repeated")]
OutOption = Annotated[Path, typer.Option(help="new folder for predictions, results.json and the model")]
MoreTests = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE]...", help="more test files: `--test test-*.tsv` may be unquoted"),
]
DevOption = Annotated[str | None, typer.Option(help="FILE by which the best epoch is chosen; without it, the last")]
EvalEveryOption = Annotated[
    int | None, typer.Option(min=1, help="steps between two evaluations on --dev; default: once an epoch")
]
NameOption = Annotated[str | None, typer.Option(help="XTREME's name of the data set, a folder of the predictions")]
TrainItemsOption = Annotated[str | None, typer.Option(help="FIRST-LAST: these sentences, pairs or questions alone")]
DevItemsOption = Annotated[str | None, typer.Option(help="FIRST-LAST, of --dev")]
TestItemsOption = Annotated[str | None, typer.Option(help="FIRST-LAST, of every test file")]
NoModelOption = Annotated[bool, typer.Option("--no-model", help="do not keep the fine-tuned model")]
ReportToOption = Annotated[list[str] | None, typer.Option(help="the Trainer's: tensorboard, wandb")]

# Training.
EpochsOption = Annotated[float | None, typer.Option(min=0.01, help="default: classify and generate 5, tag 10, qa 3")]
LearningRateOption = Annotated[float | None, typer.Option("--lr", help="default: 2e-5, qa 3e-5, generate 5e-5")]
BatchOption = Annotated[int, typer.Option(min=1, help="rows of a step, on each device")]
MaxLengthOption = Annotated[int | None, typer.Option(min=4, help="tokens of a row; default: 128, generate 256, qa 384")]
DropoutOption = Annotated[float, typer.Option(min=0, max=1)]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="decides head, order and dropout")]
SeedsOption = Annotated[int, typer.Option(min=1, help="runs with seeds from --seed on; mean and deviation are shown")]
FreezeEmbeddingsOption = Annotated[
    bool, typer.Option("--freeze-embeddings", help="keep the word embeddings as they are: faster, less memory")
]
GroupLengthsOption = Annotated[
    bool, typer.Option("--group-lengths", help="batches of rows of like lengths: faster, in another order")
]
Bf16Option = Annotated[bool, typer.Option("--bf16", help="bf16 autocast, where the hardware has it")]

# Of some tasks.
StrideOption = Annotated[int | None, typer.Option(min=0, help="qa: tokens shared by two windows of a context")]
SubwordsOption = Annotated[
    str | None,
    typer.Option(help="tag: what a word is to the head, its first subword (first, default) or their sum"),
]
ToOption = Annotated[str | None, typer.Option(help="generate: language of all texts to write; default: each file's")]
TrainLayersOption = Annotated[
    str | None,
    typer.Option(
        help="generate: all (default); decoder; or FIRST-LAST, these layers of the encoder alone, as 1-10 for tests in "
        "languages that are not trained on"
    ),
]
LabelSmoothingOption = Annotated[float | None, typer.Option(min=0, max=1, help="generate; default: 0")]
BeamOption = Annotated[int | None, typer.Option(min=1, help="generate, for dev and test; default: 5")]

# xTune.
CodeSwitchOption = Annotated[
    list[str] | None,
    typer.Option(
        help="classify, tag, qa: a dictionary, FILE or LANGUAGE=FILE, a word and its translation a line; what is said of a "
        "sentence with words from it must agree with what is said of the sentence (xTune); may be repeated"
    ),
]
SubwordSamplingOption = Annotated[
    float | None,
    typer.Option(
        min=0, help="classify, tag, qa: instead, words cut into other subwords, by this alpha; published: 0.3"
    ),
]
NoiseOption = Annotated[
    float | None,
    typer.Option(help="classify, tag, qa: instead, embeddings with Gaussian noise of this standard deviation"),
]
TranslationsOption = Annotated[
    list[str] | None,
    typer.Option(
        help="classify: instead, the training pairs in another language, line by line, FILE or LANGUAGE=FILE; repeatable"
    ),
]
SwitchShareOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="of the words, to be looked up in a dictionary or cut otherwise; default: 0.3"),
]
ConsistencyOption = Annotated[float | None, typer.Option(min=0, help="weight of that agreement; default: 5")]
ConsistencyMeanOption = Annotated[
    str | None,
    typer.Option(help="over elements, as released (default): the weight is divided by the number of labels; or items"),
]
FirstStageOption = Annotated[
    Path | None,
    typer.Option(help="OUT/model of such a training, whose second stage this is (xTune)"),
]
ModelConsistencyOption = Annotated[
    float | None, typer.Option(min=0, help="weight of the agreement with the first stage; default: 5")
]
HardLabelsOption = Annotated[
    bool, typer.Option("--hard-labels", help="the best label of the first stage counts, not its distribution")
]
