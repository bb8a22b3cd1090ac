"""`align` as a PyTorch operator: compilers keep it whole, and see the shapes that it gives."""

import dataclasses

import pytest
import torch

from sinkhorn_align import AlignmentSettings, Links, align
from sinkhorn_align.operator import align_operator


def plain(settings: AlignmentSettings) -> tuple:
    return dataclasses.astuple(settings)


@pytest.mark.parametrize("settings", [AlignmentSettings(), AlignmentSettings(cost="exp", filter_rounds=3)], ids=str)
def test_operator_keeps_what_pytorch_asks_of_one(settings, correlated_pairs, lay_out):
    hidden_TD, spans = lay_out(correlated_pairs(seed=1, pairs=5))
    for backend in ("native", "torch"):
        torch.library.opcheck(align_operator, (hidden_TD, *spans, backend, *plain(settings)))
    torch.library.opcheck(
        align_operator, (hidden_TD, *spans, "auto", *plain(dataclasses.replace(settings, filter_rounds=0)))
    )


def test_settings_reach_the_operator_field_by_field():
    names = [argument.name for argument in align_operator._opoverload._schema.arguments]
    assert names[6:] == [field.name for field in dataclasses.fields(AlignmentSettings)]


def test_a_compiled_function_keeps_the_call_whole_and_gives_the_same_links(correlated_pairs, lay_out):
    def links_of_doubled(hidden_TD, spans):
        links = align(hidden_TD * 2, spans, AlignmentSettings(cost="exp", temperature=4.0))
        return links.partner_T + 1, links.score_T, links.links_RT, links.status_B

    batch = lay_out(correlated_pairs(seed=1, pairs=5))
    expected = links_of_doubled(*batch)
    compiled = torch.compile(links_of_doubled, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(*batch), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_answers_of_every_backend_have_the_same_form(correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=1, pairs=5))
    forms = {
        backend: [
            (getattr(links, f.name).dtype, getattr(links, f.name).shape, getattr(links, f.name).is_contiguous())
            for f in dataclasses.fields(Links)
        ]
        for backend in ("native", "torch", "reference")
        for links in [align(*batch, backend=backend)]
    }
    assert forms["native"] == forms["torch"] == forms["reference"]
