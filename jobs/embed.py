"""ccp-ray embed ENCODER TEXTS --output URI: texts (a corpus, JSON lines or parquet) in, vectors out."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.artifact import find_artifact
from ccp_ray.config import load_config
from ccp_ray.corpus import Corpus
from ccp_ray.embed import embed as embed_texts
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embed_plan import corpus_plan
from ccp_ray.session import machine_cpus
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.memory import EncoderShape
from jobs.plan import MEAN_TOKENS, Plan, embed_plan, source_shape
from jobs.row_counts import count_rows


def embed(
    encoder: Annotated[str, typer.Argument(help="Encoder: artifact, Hugging Face folder or name, s3://, package://")],
    texts: Annotated[str, typer.Argument(help="A corpus, or JSON lines / parquet with id and text.")],
    output: Output,
    reuse: Annotated[
        list[str] | None, typer.Option(help="Earlier embeddings; their pieces of the same rows are copied. Repeatable.")
    ] = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Embed every text; row i of the vectors is row i of the table beside them."""
    with reported():
        settings = load_config(EmbedConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: plan_embed(source_shape(encoder), texts, settings), as_json)
    else:
        run(
            lambda: embed_texts(encoder, texts, output, settings, reuse or ()),
            output=output,
            address=address,
            as_json=as_json,
        )


def plan_embed(shape: EncoderShape, texts: str, config: EmbedConfig) -> Plan:
    """The plan of embedding these texts with an encoder of this shape."""
    corpus = find_artifact(texts)
    if corpus is not None and corpus.kind == "corpus":
        planned = corpus_plan(Corpus.open(texts), "", config)  # names do not matter here
        rows, pieces, tokens, told = sum(piece.rows for piece in planned), len(planned), float(MEAN_TOKENS), ""
    else:
        counted = count_rows(texts)
        rows, pieces = counted.rows, -(-counted.rows // config.piece_rows)
        tokens, told = counted.tokens(config.max_tokens or shape.positions), counted.told
    width = 2 if config.dtype == "float16" else 4
    return embed_plan(rows, pieces, shape, width, machine_cpus(), tokens, told)


if __name__ == "__main__":
    main(embed)
