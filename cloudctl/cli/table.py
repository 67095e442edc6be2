"""What the rows of ``resources.py`` are made of. Everything a command line needs to know follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Kind(Enum):
    """How a field is written on the command line, and what it becomes in JSON."""

    TEXT = auto()
    CONTENT = auto()
    """A text, or ``@FILE`` or ``@-`` (standard input) for what is in there."""
    SECRET = auto()
    """Only ``@FILE`` or ``@-``: what stands on a command line is read by everybody on the machine."""
    NUMBER = auto()
    BYTES = auto()
    """``10GiB``, ``512M``, ``1073741824``; K, M, G, T are powers of 1024."""
    SECONDS = auto()
    """``90``, ``15m``, ``12h``, ``30d``."""
    FLAG = auto()
    """``--name`` or ``--no-name``; left out, it is not sent."""
    REFERENCE = auto()
    """An id, or a name that only one object has."""
    MAP = auto()
    """``NAME=VALUE``, any number of times."""
    SECRET_MAP = auto()
    """``NAME=@FILE``, any number of times."""
    OBJECT = auto()
    """``member=value,member=value``; the value alone where there is one member."""
    JSON = auto()
    """JSON; what is none is taken as text."""


_PLURALS = {Kind.MAP, Kind.SECRET_MAP}


@dataclass(frozen=True)
class Field:
    """A field of a body, or a parameter of a query; ``name`` is the API's."""

    name: str
    kind: Kind = Kind.TEXT
    required: bool = False
    many: bool = False
    """A list in JSON: the option may be given several times."""
    argument: bool = False
    """It stands without an option's name."""
    to: str = ""
    """The resource that a REFERENCE is to."""
    word: str = ""
    """A word that may stand in the place of references, as ``all``."""
    choices: tuple[str, ...] = ()
    members: tuple["Field", ...] = ()
    nullable: bool = False
    """``none`` on the command line is JSON's null."""
    option: str = ""
    """The option's word, where the API's name means something else on the command line."""
    help: str = ""

    @property
    def word_of_option(self) -> str:
        """The API's name without its unit, one of a plural: ``data_disks`` is ``data-disk``."""
        if self.option:
            return self.option
        name = self.name.removesuffix("_bytes").removesuffix("_seconds")
        if self.many or self.kind in _PLURALS:
            name = name.removesuffix("s")
        return name.replace("_", "-")


class Answer(Enum):
    """What a call gives back."""

    PAGES = auto()
    """A list in pages."""
    ROWS = auto()
    """A list in one piece."""
    ROW = auto()
    OPERATION = auto()
    """202 and the operation, which can be waited for."""
    NOTHING = auto()


@dataclass(frozen=True)
class Call:
    """A command: one method of one path of the API."""

    name: str
    method: str
    path: str
    """Below ``/api/v1/``; ``{id}`` in it makes the command take a reference."""
    help: str
    answer: Answer
    body: tuple[Field, ...] = ()
    query: tuple[Field, ...] = ()
    columns: tuple[str, ...] = ()
    """Of a table; a single row is shown whole."""
    ordered: bool = True
    """Whether a list takes ``ordering``."""
    wanted: str = "succeeded"
    """The state of the operation that is this call's success."""
    prints: str = ""
    """The member of the operation's result that people want: it is waited for, and printed as text."""
    attention_seconds: float = 0.0
    """How long ``needs_attention`` is no end yet, for calls on operations that are there already."""

    @property
    def takes_reference(self) -> bool:
        return "{" in self.path


@dataclass(frozen=True)
class Resource:
    """A kind of object with its calls. ``named``: objects can be referred to by name."""

    name: str
    path: str
    help: str
    calls: tuple[Call, ...]
    named: bool = True
    gone: tuple[str, ...] = ()
    """States in which an object lets go of its name."""
    by_call: Mapping[str, Call] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_call", {call.name: call for call in self.calls})

    @property
    def filters_by_name(self) -> bool:
        return any(one.name == "name" for one in self.by_call["list"].query)


def listing(path: str, columns: str, *filters: Field) -> Call:
    """``list``: GET of the path, in pages."""
    return Call("list", "GET", path, "List them.", Answer.PAGES, query=filters, columns=tuple(columns.split()))


def show(path: str) -> Call:
    """``show``: GET of one."""
    return Call("show", "GET", f"{path}{{id}}/", "Show one with all its fields.", Answer.ROW)


def create(path: str, *body: Field, answer: Answer = Answer.ROW, text: str = "Make one.") -> Call:
    """``create``: POST to the path."""
    return Call("create", "POST", path, text, answer, body=body)


def delete(path: str, *query: Field, answer: Answer = Answer.NOTHING, text: str = "Delete one.") -> Call:
    """``delete``: DELETE of one."""
    return Call("delete", "DELETE", f"{path}{{id}}/", text, answer, query=query)


def act(
    path: str, name: str, text: str, *body: Field, answer: Answer = Answer.OPERATION, query: tuple[Field, ...] = ()
) -> Call:
    """An action: POST to ``{id}/NAME/``."""
    return Call(name, "POST", f"{path}{{id}}/{name}/", text, answer, body=body, query=query)
