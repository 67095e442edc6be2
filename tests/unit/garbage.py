"""What may lie in a queue although nobody of ours put it there."""

import base64
import json
from typing import Any

SECRET = "xyzzy-plugh"
"""In the body of each message that has one: no log may show it."""


def message(task: str, arguments: Any = None, **changes: Any) -> bytes:
    """A message as kombu writes it into Redis, for ``task``; ``changes`` replace its parts."""
    body = arguments if arguments is not None else [[], {"message": {"word": SECRET}}, {}]
    parts = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": task, "id": "f00d"},
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "delivery_tag": "t",
        },
    }
    return json.dumps(parts | changes).encode()


def unreadable(task: str) -> dict[str, bytes]:
    """Messages that are skipped before a task is begun, by what is wrong with them."""
    properties = {"delivery_tag": "t", "delivery_info": {"routing_key": "q"}}
    return {
        "raw bytes": b"\x00\xff" + SECRET.encode(),
        "not JSON": SECRET.encode(),
        "a deep nest": b"[" * 100_000,
        "a number": b"5",
        "null": b"null",
        "a list": json.dumps([SECRET]).encode(),
        "a type that is not known": json.dumps({"__type__": SECRET, "__value__": SECRET}).encode(),
        "no properties": json.dumps({"body": SECRET}).encode(),
        "no delivery tag": message(task, properties={}),
        "properties that are none": message(task, properties=5),
        "no headers": message(task, headers=None),
        "headers that are a list": message(task, headers=[SECRET]),
        "no task": message(task, headers={}),
        "a task that is not text": message(task, headers={"task": [1], "id": "f00d"}),
        "no id": message(task, headers={"task": task}),
        "a task that nobody knows": message("nothing.of.ours"),
        "pickle": message(task, **{"content-type": "application/x-python-serialize"}),
        "a body that is not base64": message(task, body=SECRET + "é"),
        "a body encoding that is not known": message(task, properties=properties | {"body_encoding": "rot13"}),
        "a body that is not JSON": message(task, body=base64.b64encode(SECRET.encode()).decode()),
        "no body": message(task, body=None),
        "arguments that are a number": message(task, 5),
        "arguments that are text": message(task, SECRET),
        "a list that is too short": message(task, [SECRET]),
        "options that are a list": message(task, [[], [SECRET], {}]),
        "what is embedded is a list": message(task, [[], {}, [SECRET]]),
        "something is embedded": message(task, [[], {}, {"args": [SECRET]}]),
    }


def misfits(task: str) -> dict[str, bytes]:
    """Messages of which the task, or what unpacks its arguments, says that they do not fit."""
    return {
        "an encoding that is not known": message(task, **{"content-encoding": "klingon"}),
        "a time that is none": message(task, headers={"task": task, "id": "f00d", "eta": SECRET}),
        "limits that are a number": message(task, headers={"task": task, "id": "f00d", "timelimit": 5}),
        "no arguments": message(task, [[], {}, {}]),
        "an argument that is not known": message(task, [[], {"word": SECRET}, {}]),
        "an argument that is a number": message(task, [[], {"message": 5}, {}]),
        "an argument without what it needs": message(task),
    }
