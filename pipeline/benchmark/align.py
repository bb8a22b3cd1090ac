"""Our word aligner beside SimAlign, awesome-align and eflomal: pairs per second and AER on the same gold sentences.

    python -m pipeline.benchmark.align HF_DIR GOLD_DIR --peers PYTHON [--layer N] [--json FILE]

PYTHON is that of an environment with `simalign`, `awesome-align` and `eflomal`. SimAlign is given the same model;
awesome-align, which takes BERT only, the same weights under BERT's names with a WordPiece vocabulary of the same pieces, on
which SimAlign and ours are timed, too; eflomal has no model and learns from the sentences alone, links of both directions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from data_prep.files import check_output, write_text
from data_prep.standard_output import print_table, put
from data_prep.tokenizers.special_ids import BOS, EOS, PAD, UNK
from data_prep.tokenizers.tokenizer import MODEL_NAME, SPACE_PIECE, Tokenizer
from pipeline import command_line
from pipeline.align.aligner import Aligner
from pipeline.align.word_alignment import WordLinks
from pipeline.evaluate.gold import Gold, read_gold, score_links
from pipeline.weights.hugging_face import read_config, read_state
from pipeline.weights.hugging_face_tokenizer import save_tokenizer
from pipeline.weights.loading import load_model

PEERS = Path(__file__).resolve().parent / "align_peers.py"
SAME_AS_SIMALIGN: dict[str, Any] = {"method": "argmax", "encoding": "separate", "keep_space_pieces": True}
OF_PRETRAINING: dict[str, Any] = {"method": "ot-filter", "encoding": "joint"}
OURS: dict[str, dict[str, Any]] = {
    "ours, argmax, separate, fp32": SAME_AS_SIMALIGN,
    "ours, ot-filter, joint, fp32": OF_PRETRAINING,
    "ours, argmax, separate, bf16": {**SAME_AS_SIMALIGN, "dtype": "bf16"},
    "ours, ot-filter, joint, bf16": {**OF_PRETRAINING, "dtype": "bf16"},
}
THEIRS: dict[str, list[str]] = {
    "SimAlign, inter": ["simalign", "--methods", "a"],
    "SimAlign, itermax": ["simalign", "--methods", "i"],
    "SimAlign, its default": ["simalign", "--methods", "mai"],
    "awesome-align": ["awesome-align"],
    "awesome-align, 4 workers": ["awesome-align", "--workers", "4"],
    "eflomal, both directions": ["eflomal"],
}
ON_BERT = {
    "ours, BERT by Transformers, argmax, separate, fp32": {"method": "argmax", "encoding": "separate"},
    "ours, BERT by Transformers, argmax, separate, bf16": {"method": "argmax", "encoding": "separate", "dtype": "bf16"},
}
BERT_OF_SIMALIGN = "SimAlign, inter, BERT"
"""Both on awesome-align's model: what the aligner does with an encoder that is not XLM-R's."""

Run = Callable[[], tuple[float, list[WordLinks]]]


@dataclass
class Result:
    """What one contender did: seconds of every repeat, and the links, which are the same in each."""

    seconds: list[float]
    links: list[WordLinks]


def write_bert(folder: Path, tokenizer: Tokenizer, out: Path) -> None:
    """The weights of an XLM-R-shaped folder as a BERT that awesome-align reads; it has no head and no pooler.

    A piece `▁x` becomes the word piece `x`, a piece `x` becomes `##x`, with the piece's embedding.
    """
    config, state = read_config(folder), read_state(folder)
    pieces = {i: tokenizer.piece(i) for i in range(UNK + 1, tokenizer.mask_id)}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rows = [PAD, UNK, BOS, EOS, tokenizer.mask_id]
    for token_id, piece in pieces.items():
        word = piece.removeprefix(SPACE_PIECE) if piece.startswith(SPACE_PIECE) else f"##{piece}"
        if word:
            words.append(word)
            rows.append(token_id)
    bert = {f"bert.{name.removeprefix('roberta.')}": tensor for name, tensor in state.items() if "lm_head" not in name}
    embeddings = "bert.embeddings."
    bert[f"{embeddings}word_embeddings.weight"] = bert[f"{embeddings}word_embeddings.weight"][rows]
    bert[f"{embeddings}position_embeddings.weight"] = bert[f"{embeddings}position_embeddings.weight"][2:].clone()
    bert[f"{embeddings}token_type_embeddings.weight"] = bert[f"{embeddings}token_type_embeddings.weight"].repeat(2, 1)
    sizes = {
        "vocab_size": len(words),
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "max_position_embeddings": config.longest,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
    }
    out.mkdir()
    torch.save(bert, out / "pytorch_model.bin")
    (out / "config.json").write_text(json.dumps({"model_type": "bert", **sizes}), encoding="utf-8")
    (out / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (out / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False}), encoding="utf-8"
    )


def write_for_simalign(folder: Path, tokenizer: Tokenizer, out: Path) -> None:
    """The same model with Hugging Face's tokenizer beside it."""
    out.mkdir()
    for path in folder.resolve().iterdir():
        if path.is_file() and path.name != MODEL_NAME and "tokenizer" not in path.name:
            (out / path.name).symlink_to(path)
    save_tokenizer(tokenizer, out)


def write_models(hf_dir: Path, out: Path) -> dict[str, Path]:
    """What each peer is given, by its name."""
    tokenizer = load_model(hf_dir)[1]
    models = {"simalign": out / "simalign", "awesome-align": out / "awesome", "eflomal": out}
    write_for_simalign(hf_dir, tokenizer, models["simalign"])
    write_bert(hf_dir, tokenizer, models["awesome-align"])
    return models


def pair_lines(source: Sequence[Sequence[str]], target: Sequence[Sequence[str]]) -> list[str]:
    """Lines `source ||| target` of words."""
    return [f"{' '.join(a)} ||| {' '.join(b)}\n" for a, b in zip(source, target, strict=True)]


def our_run(folder: Path, layer: int, gold: Gold, options: dict[str, Any]) -> Run:
    def run() -> tuple[float, list[WordLinks]]:
        aligner = Aligner.load(folder, layer, **{"dtype": "fp32", **options})
        pairs = list(zip(gold.source, gold.target, strict=True))
        aligner.align(pairs[:1])
        started = time.perf_counter()
        links = aligner.align(pairs)
        return time.perf_counter() - started, links

    return run


class Peer:
    """Another aligner in a process of its own, with its model loaded; a context that ends the process.

    words: its name and options of `align_peers.py`; pairs: file of `source ||| target` lines.
    """

    def __init__(self, python: Path, model: Path, pairs: Path, layer: int, threads: int, words: Sequence[str]) -> None:
        self._python, self._name, self._out = python, words[0], pairs.with_name(f"{'_'.join(words)}.links")
        options = [*words[1:], "--layer", str(layer), "--threads", str(threads)]
        command = [str(python), str(PEERS), words[0], str(model), str(pairs), str(self._out), *options]
        self._errors = self._out.with_suffix(".errors")
        # PyTorch is told its threads; those of other libraries get in its way: with two each SimAlign lost two fifths.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self._errors.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def align(self) -> tuple[float, list[WordLinks]]:
        """Seconds for all pairs, and their links; ValueError where the process fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it ended: its last words are below
            print(file=self._process.stdin, flush=True)
        for line in self._process.stdout:  # the aligners print things of their own
            if line.startswith('{"seconds"'):
                break
        else:
            self._process.wait()
            last = self._errors.read_text(encoding="utf-8").strip().splitlines()[-1:]
            missing = "No module named" in "".join(last)
            mend = f"; `{self._python} -m pip install simalign awesome-align eflomal`" if missing else ""
            raise ValueError(f"{self._name}: ended with exit code {self._process.returncode}: {''.join(last)}{mend}")
        lines = self._out.read_text(encoding="utf-8").splitlines()
        links = [[(int(i), int(j)) for i, j in (link.split("-") for link in line.split())] for line in lines]
        return json.loads(line)["seconds"], links


def figures(results: dict[str, Result], gold: Gold) -> list[dict[str, Any]]:
    """Entries of the JSON file: pairs per second with ratios to the others, and AER."""
    speed = {name: len(gold) / median(result.seconds) for name, result in results.items()}
    entries: list[dict[str, Any]] = []
    for name, result in results.items():
        ratios = {other: round(speed[name] / theirs, 3) for other, theirs in speed.items() if other != name}
        entries.append(
            {"name": "alignment", "contender": name, "value": speed[name], "unit": "pairs/s", "ratio_to": ratios}
        )
        aer = score_links(result.links, gold).aer
        entries.append({"name": "AER", "contender": name, "value": aer, "unit": "", "ratio_to": {}})
    return entries


def show(results: dict[str, Result], gold: Gold) -> None:
    table = Table(title=f"{len(gold):,} pairs {gold.source_language}-{gold.target_language}")
    others = [name for name in (*THEIRS, BERT_OF_SIMALIGN) if name in results and "eflomal" not in name]
    for column in ("contender", "pairs/s", *(f"× {name}" for name in others), "AER"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    speed = {name: len(gold) / median(result.seconds) for name, result in results.items()}
    for name, result in results.items():
        ratios = [f"{speed[name] / speed[other]:.1f}" for other in others]
        table.add_row(name, f"{speed[name]:.1f}", *ratios, f"{score_links(result.links, gold).aer:.3f}")
    print_table(table)


def same_links(ours: list[WordLinks], theirs: list[WordLinks]) -> float:
    """Share of links that both have, of all that either has."""
    both = sum(len(set(a) & set(b)) for a, b in zip(ours, theirs, strict=True))
    either = sum(len(set(a) | set(b)) for a, b in zip(ours, theirs, strict=True))
    return both / max(either, 1)


def benchmark(
    hf_dir: Annotated[Path, typer.Argument(help="XLM-R-shaped Hugging Face folder with its SentencePiece model")],
    gold_dir: Annotated[
        Path, typer.Argument(help="folder with test.<src>, test.<trg> and links: the text that is aligned")
    ],
    peers: Annotated[
        Path | None, typer.Option(help="python of an environment with simalign, awesome-align and eflomal")
    ] = None,
    layer: Annotated[int, typer.Option(help="layer, for all contenders")] = 7,
    pairs: Annotated[int, typer.Option(min=1, help="the first so many pairs")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="runs of each contender, taken in turn; the median counts")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="threads of every contender")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures there")] = None,
) -> None:
    """Time the word aligner beside others on the same sentences; loading is not counted, tokenizing is.

    Example: python -m pipeline.benchmark.align small gold/en-cs --peers peers/bin/python --threads 2 --json figures.json
    """
    if json_file is not None:
        check_output(json_file)
    gold = read_gold(gold_dir).first(pairs)
    torch.set_num_threads(threads)
    runs: dict[str, Run] = {name: our_run(hf_dir, layer, gold, options) for name, options in OURS.items()}
    with ExitStack() as open_until_the_end:
        if peers is not None:
            out = Path(open_until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="align_benchmark_")))
            models = write_models(hf_dir, out)
            (out / "pairs.txt").write_text("".join(pair_lines(gold.source, gold.target)), encoding="utf-8")
            for name, words in THEIRS.items():
                peer = Peer(peers, models[words[0]], out / "pairs.txt", layer, threads, words)
                runs[name] = open_until_the_end.enter_context(peer).align
            runs |= _runs_on_bert(peers, models["awesome-align"], gold, layer, threads, open_until_the_end)
        results = {name: Result([], []) for name in runs}
        for repeat in range(repeats + 1):  # the first one warms up
            for name, run in runs.items():
                seconds, results[name].links = run()
                if repeat:
                    results[name].seconds.append(seconds)
                    print(f"{repeat}: {name}: {seconds:.2f} s", file=sys.stderr)
    show(results, gold)
    entries = figures(results, gold)
    if peers is not None:
        of_xlm_r = [name for name, options in OURS.items() if SAME_AS_SIMALIGN.items() <= options.items()]
        of_bert = [(name, BERT_OF_SIMALIGN) for name in ON_BERT]
        for mine, other in [*((name, next(iter(THEIRS))) for name in of_xlm_r), *of_bert]:
            same = same_links(results[mine].links, results[other].links)
            put(f"{mine} and {other}: {same:.2%} of links are the same")
            entries.append({"name": "same links", "contender": mine, "value": same, "unit": "", "ratio_to": {}})
    if json_file:
        write_text(json_file, json.dumps(entries, indent=1) + "\n")


def _runs_on_bert(
    python: Path, model: Path, gold: Gold, layer: int, threads: int, until_the_end: ExitStack
) -> dict[str, Run]:
    """Ours and SimAlign on the model of awesome-align, whose pair and link files lie apart from the others'."""
    out = Path(until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="align_benchmark_bert_")))
    (out / "pairs.txt").write_text("".join(pair_lines(gold.source, gold.target)), encoding="utf-8")
    peer = Peer(python, model, out / "pairs.txt", layer, threads, THEIRS["SimAlign, inter"])
    runs: dict[str, Run] = {name: our_run(model, layer, gold, options) for name, options in ON_BERT.items()}
    return runs | {BERT_OF_SIMALIGN: until_the_end.enter_context(peer).align}


def main() -> None:
    command_line.run_one(benchmark)


if __name__ == "__main__":
    main()
