"""Questions and which documents answer them, as TREC distributes both.

topics    qid<TAB>question
qrels     qid Q0 docid relevance, parted by blanks or tabs
"""

from __future__ import annotations

from ccp_ray.errors import DataError
from ccp_ray.text_lines import numbered_lines


def read_topics(uri: str) -> dict[str, str]:
    """{qid: question} in the file's order. Raises DataError naming the line that is none, or whose id came before."""
    questions: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in numbered_lines(uri):
        name, tab, question = line.partition("\t")
        if not tab or not name.strip() or not question.strip():
            raise DataError(f"{uri}, line {number}: expected an id, a tab and a question")
        name = name.strip()
        if name in lines:
            raise DataError(f"{uri}, line {number}: question id {name!r} came before, at line {lines[name]}")
        questions[name], lines[name] = question.strip(), number
    if not questions:
        raise DataError(f"{uri}: no questions")
    return questions


def read_qrels(uri: str) -> dict[str, dict[str, int]]:
    """{question: {document: relevance}} of a TREC qrels file.

    Raises DataError naming the line that is no judgement, or repeats one.
    """
    judged: dict[str, dict[str, int]] = {}
    for number, line in numbered_lines(uri):
        fields = line.split()
        if len(fields) != 4 or not fields[3].lstrip("-").isdigit():
            raise DataError(f"{uri}, line {number}: expected four columns of TREC qrels: qid Q0 docid relevance")
        documents = judged.setdefault(fields[0], {})
        if fields[2] in documents:
            raise DataError(f"{uri}, line {number}: document {fields[2]!r} is judged twice for question {fields[0]!r}")
        documents[fields[2]] = int(fields[3])
    if not judged:
        raise DataError(f"{uri}: no judgements")
    return judged
