import gzip
import json
from pathlib import Path

import pytest

from recjax.data import json_lines
from recjax.data.json_lines import INTEGER, NUMBER, TEXT, TEXTS, first_object, read_json_lines
from recjax.errors import UserError

FIELDS = {"id": TEXT, "value": NUMBER, "time": INTEGER, "tags": TEXTS}


def rows(path: Path) -> list[tuple]:
    read = []
    for columns in read_json_lines(path, FIELDS):
        read += list(zip(*(columns[name].values.to_pylist() for name in FIELDS), strict=True))
    return read


def write(tmp_path: Path, content: bytes | str) -> Path:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LINE = '{"id": "a", "value": 5, "time": 7, "tags": ["x", "y"], "more": {"a": [1, null]}}\n'


@pytest.mark.parametrize(
    "content",
    [
        LINE * 2,
        (LINE * 2).rstrip("\n"),
        LINE * 2 + "\r\n\n",
        (LINE * 2).replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + (LINE * 2).encode(),
        gzip.compress((LINE * 2).encode(), mtime=0),
        gzip.compress(LINE.encode(), mtime=0) * 2,
        '{"tags":["x","y"],"time":7,"id":"a","value":5.0}\n{"value":0.5e1,"id":"\\u0061","time":7,"tags":["x","y"]}',
    ],
)
def test_reads_every_way_of_writing_alike(tmp_path: Path, content: bytes | str):
    assert rows(write(tmp_path, content)) == [("a", 5.0, 7, ["x", "y"])] * 2


def test_what_an_object_lacks_is_null(tmp_path: Path):
    path = write(tmp_path, '{"id": null}\n{}\n{"tags": [null]}\n')
    assert rows(path) == [(None,) * 4, (None,) * 4, (None, None, None, [None])]


def test_the_first_object_is_read_alone(tmp_path: Path):
    assert first_object(write(tmp_path, '{"a": [1]}\nnot JSON\n')) == {"a": [1]}


@pytest.mark.parametrize("compressed", [False, True])
def test_lines_are_numbered_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 256)

    def written(lines: list[str]) -> Path:
        text = "\n".join(lines).encode()
        return write(tmp_path, gzip.compress(text) if compressed else text)

    lines = [json.dumps({"id": f"user {n}", "time": n}) for n in range(500)]
    assert rows(written(lines)) == [(f"user {n}", None, n, None) for n in range(500)]
    for bad, message in [
        ("{'id': 'a'}", ": a Python dict in single quotes"),
        ('{"id": 5}', ", column 'id': 5; expected a string"),
        ("", ": a blank line; "),
        ("[]", ": '[]' is no object; "),
    ]:
        lines[432] = bad
        with pytest.raises(UserError) as error:
            rows(written(lines))
        assert str(error.value).startswith(f"{tmp_path}/x.jsonl:433{message}")
    lines[432] = json.dumps({"id": "x" * 600})
    with pytest.raises(UserError, match=r"x.jsonl:433: 256 bytes and more on a line; expected one JSON object a line$"):
        rows(written(lines))


def test_a_checked_value_is_numbered_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 256)
    path = write(tmp_path, "".join(json.dumps({"time": n}) + "\n" for n in range(500)))
    with pytest.raises(UserError, match=r":412, column 'time': 411; expected an integer from 0 to 410$"):
        [columns["time"].integers(0, 410) for columns in read_json_lines(path, FIELDS)]


ONE = "; expected one JSON object a line"
GZIP = gzip.compress(LINE.encode() * 2, compresslevel=0, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", f":1: the file is empty{ONE}"),
        ("\r\n\n", f":1: the file is empty{ONE}"),
        (gzip.compress(b"", mtime=0), f":1: the file is empty{ONE}"),
        (LINE + "\n" + LINE, f":2: a blank line{ONE}"),
        (LINE + "  \n" + LINE, f":2: a blank line{ONE}"),
        (LINE + "[1, 2]\n", f":2: '[1, 2]' is no object{ONE}"),
        (LINE + "id,value\n", f":2: no JSON: Expecting value (character 1){ONE}"),
        (LINE + '{"id": "a"\n' + LINE, f":2: no JSON: Expecting ',' delimiter (character 11){ONE}"),
        (
            LINE + '{"id": "a",\n"value": 5}\n',
            f":2: no JSON: Expecting property name enclosed in double quotes (character 12){ONE}",
        ),
        (LINE + LINE.strip() + LINE, f":2: no JSON: Extra data (character 81){ONE}"),
        (
            LINE + "{'id': 'a', 'value': __import__('os')}\n",
            ":2: a Python dict in single quotes, as in Amazon's files of 2014, which would have to be evaluated; "
            "expected JSON, as in the files of 2018 and 2023",
        ),
        (LINE + '{"id": 5}\n', ":2, column 'id': 5; expected a string"),
        (LINE + '{"id": ["a"]}\n', ":2, column 'id': [\"a\"]; expected a string"),
        (LINE + '{"value": "5"}\n', ":2, column 'value': '5'; expected a number"),
        (LINE + '{"value": true}\n', ":2, column 'value': true; expected a number"),
        (LINE + '{"time": 1.5}\n', ":2, column 'time': 1.5; expected an integer of at most 18 digits"),
        (
            LINE + '{"time": 99999999999999999999}\n',
            ":2, column 'time': 99999999999999999999; expected an integer of at most 18 digits",
        ),
        (LINE + '{"tags": "x"}\n', ":2, column 'tags': 'x'; expected a list of strings"),
        (LINE + '{"tags": [["x"]]}\n', ":2, column 'tags': [[\"x\"]]; expected a list of strings"),
        (LINE + '{"id": "a", "id": "b"}\n', ":2: an object has the field 'id' twice; expected once"),
        (LINE + '{"value": 1e999}\n', f":2: Number too big to be stored in double{ONE}"),
        (LINE + '{"id": "\\ud800"}\n', f":2: The surrogate pair in string is invalid{ONE}"),
        (
            LINE + "{" * 5000 + "\n",
            f":2: no JSON: Expecting property name enclosed in double quotes (character 2){ONE}",
        ),
        (LINE + '{"a":' * 200_000 + "\n", f":2: lists or objects are nested too deep{ONE}"),
        (LINE.encode() + b'{"id": "\xff"}\n', f":2: byte 0xff is not UTF-8{ONE}"),
        (LINE.encode("utf-16"), f":1: byte 0xff is not UTF-8{ONE}"),
        (GZIP[:-12], ":2: the gzip stream is truncated here; expected a complete gzip file"),
        (GZIP[:-8] + bytes(8), ":3: the gzip stream is corrupt here; expected a complete gzip file"),
        (GZIP + b"rest", ":3: the gzip stream is corrupt here; expected a complete gzip file"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 20, ":1: the gzip stream is corrupt here; expected a complete gzip file"),
    ],
)
def test_malformed_file_is_refused_with_its_line(tmp_path: Path, content: bytes | str, message: str):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        rows(path)
    assert str(error.value) == f"{path}{message}"


def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(UserError) as error:
        rows(tmp_path)
    assert str(error.value) == f"{tmp_path}: cannot be read: Is a directory"
    with pytest.raises(UserError) as error:
        first_object(tmp_path / "none.jsonl")
    assert str(error.value) == f"{tmp_path}/none.jsonl: no such file{ONE}"
    with pytest.raises(UserError) as error:
        first_object(write(tmp_path, ""))
    assert str(error.value) == f"{tmp_path}/x.jsonl:1: the file is empty{ONE}"
