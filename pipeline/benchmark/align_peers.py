"""Other word aligners as they come from the registry, timed on a file of pairs: a script for their own environment.

    PYTHON align_peers.py simalign|awesome-align|eflomal MODEL_DIR PAIRS OUT --layer N [--methods a] [--workers N]

PAIRS has `source ||| target` lines. The model is loaded once; then for every line on stdin the pairs are aligned, OUT gets a
line of links a pair, and the seconds that it took are printed. Imports nothing of this project.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def simalign(arguments: argparse.Namespace) -> Callable[[], float]:
    """Pair by pair, which is the only way that it has."""
    from simalign import SentenceAligner

    aligner = SentenceAligner(arguments.model, matching_methods=arguments.methods, layer=arguments.layer)
    name = aligner.matching_methods[-1]
    lines = Path(arguments.pairs).read_text(encoding="utf-8").splitlines()
    pairs = [tuple(side.split() for side in line.split("|||")) for line in lines]
    aligner.get_word_aligns(*pairs[0])

    def align() -> float:
        started = time.perf_counter()
        links = [aligner.get_word_aligns(*pair)[name] for pair in pairs]
        seconds = time.perf_counter() - started
        text = "".join(" ".join(f"{i}-{j}" for i, j in of_pair) + "\n" for of_pair in links)
        Path(arguments.out).write_text(text, encoding="utf-8")
        return seconds

    return align


def awesome_align(arguments: argparse.Namespace) -> Callable[[], float]:
    """With its default batch size and extraction."""
    import torch
    from awesome_align import modeling
    from awesome_align.configuration_bert import BertConfig
    from awesome_align.run_align import word_align
    from awesome_align.tokenization_bert import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(arguments.model, do_lower_case=False)
    modeling.PAD_ID, modeling.CLS_ID, modeling.SEP_ID = (
        tokenizer.pad_token_id,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
    )
    config = BertConfig.from_pretrained(arguments.model)
    model = modeling.BertForMaskedLM.from_pretrained(arguments.model, config=config)
    settings: dict[str, Any] = {"output_prob_file": None, "output_word_file": None}
    settings |= {"data_file": arguments.pairs, "output_file": arguments.out, "device": torch.device("cpu")}
    settings |= {"batch_size": 32, "num_workers": arguments.workers, "align_layer": arguments.layer}
    settings |= {"extraction": "softmax", "softmax_threshold": 0.001}

    def align() -> float:
        started = time.perf_counter()
        word_align(argparse.Namespace(**settings), model, tokenizer)
        return time.perf_counter() - started

    return align


def eflomal(arguments: argparse.Namespace) -> Callable[[], float]:
    """Statistical, so that the pairs themselves are all it learns from; links of both directions."""
    import io

    from eflomal import Aligner

    lines = Path(arguments.pairs).read_text(encoding="utf-8").splitlines()
    texts = ["".join(f"{s.strip()}\n" for s in of_all) for of_all in zip(*(s.split("|||") for s in lines), strict=True)]
    files = [f"{arguments.out}.{direction}" for direction in ("forward", "backward")]

    def align() -> float:
        sides = [io.StringIO(text) for text in texts]
        started = time.perf_counter()
        Aligner().align(*sides, links_filename_fwd=files[0], links_filename_rev=files[1])
        seconds = time.perf_counter() - started
        both = zip(*(Path(file).read_text(encoding="utf-8").splitlines() for file in files), strict=True)
        text = "".join(" ".join(sorted(set(a.split()) & set(b.split()))) + "\n" for a, b in both)
        Path(arguments.out).write_text(text, encoding="utf-8")
        return seconds

    return align


PEERS = {"simalign": simalign, "awesome-align": awesome_align, "eflomal": eflomal}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("out")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--methods", default="a")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    align = PEERS[arguments.peer](arguments)
    for _ in sys.stdin:
        print(json.dumps({"seconds": align()}), flush=True)


if __name__ == "__main__":
    main()
