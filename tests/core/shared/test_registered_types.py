"""Classes of the bot's own as bytes and back: the same instance, or no value."""

import collections
import dataclasses
import enum
import functools
import pickle
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.errors import CorruptPayloadError, UnsupportedValueError
from bot.core._shared.registered_types import REGISTRY, OtherTypeError, register_type
from bot.core._shared.values import decode_body, encode_body, thaw_again
from tests.support.searching import searching

T = TypeVar("T")


@register_type
class Role(enum.Enum):
    USER = "user"
    ADMIN = "admin"
    ROOT = "admin"  # noqa: PIE796 - an alias


@register_type
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@register_type
class Word(str, enum.Enum):  # noqa: UP042 - the older way
    YES = "yes"


@register_type
class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@register_type
@dataclasses.dataclass
class User:
    id: int
    name: str | None = None
    role: Role = Role.USER
    tags: set[str] = dataclasses.field(default_factory=set)
    secret: str = dataclasses.field(default="", init=False, repr=False)
    made: ClassVar[int] = 0

    def __post_init__(self):
        User.made += 1


@register_type()
@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float = 0.0


@register_type
@dataclasses.dataclass
class Admin(User):
    rights: Right = Right.READ


@register_type
@dataclasses.dataclass
class Box(Generic[T]):
    content: T
    next: "Box[T] | None" = None


@register_type
class Row(NamedTuple):
    id: int
    label: str = ""


Pair = register_type(collections.namedtuple("Pair", "left right"))


@register_type
class File(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    size: Annotated[int, msgspec.Meta(ge=0)]
    name: str = msgspec.field(default="", name="n")
    owner: User | None = None


@register_type
class Query(msgspec.Struct):
    words: list[str]

    def __post_init__(self):
        if not self.words:
            raise ValueError("no words")
        self.words = [word.lower() for word in self.words]


class Address(pydantic.BaseModel):
    city: str
    zip_code: str = pydantic.Field(alias="zip", default="")


@register_type
class Profile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    age: int = pydantic.Field(ge=0)
    role: Role = Role.USER
    address: Address | None = None
    _seen: int = pydantic.PrivateAttr(default=0)


register_type(Address)


@register_type
class Numbers(pydantic.RootModel[list[int]]):
    pass


@register_type
class Holder(pydantic.BaseModel, Generic[T]):
    model_config = pydantic.ConfigDict(frozen=True)
    content: T


users = st.builds(
    User,
    st.integers(),
    st.one_of(st.none(), st.text()),
    st.sampled_from(Role),
    st.sets(st.text(max_size=3), max_size=1),  # of more, the repr depends on how they came in
)
points = st.builds(Point, st.floats(allow_nan=False), st.floats(allow_nan=False))
instances = st.one_of(
    users,
    points,
    st.builds(Admin, st.integers(), rights=st.sampled_from([Right.READ, Right.READ | Right.WRITE, Right(0)])),
    st.sampled_from([*Role, *Level, *Word]),
    st.builds(Row, st.integers(), st.text()),
    st.builds(Pair, st.integers(), st.lists(st.integers(), max_size=2)),
    st.builds(File, size=st.integers(0, 2**70), name=st.text(), owner=st.one_of(st.none(), users)),
    st.builds(Query, st.lists(st.text(alphabet="abc"), min_size=1, max_size=3)),
    st.builds(Profile, age=st.integers(0, 200), role=st.sampled_from(Role)),
    st.builds(lambda city, code: Address(city=city, zip=code), st.text(), st.text()),
    st.builds(Numbers, st.lists(st.integers(), max_size=3)),
)
nested = st.recursive(
    instances,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), points), inner, max_size=3),
        st.builds(Box, inner, st.one_of(st.none(), st.builds(Box, inner))),
    ),
    max_leaves=6,
)


def written(value):
    return encode_body(value, registered=True)


@searching(150)
@given(nested)
def test_what_is_read_is_what_was_written(value):
    body = written(value)
    for read in (decode_body, thaw_again):
        found = read(body)
        assert found == value
        assert type(found) is type(value)
        assert repr(found) == repr(value)


@pytest.mark.parametrize("value", [*Role, *Level, Word.YES, Right.READ | Right.WRITE])
def test_a_member_comes_back_as_itself(value):
    assert decode_body(written([value]))[0] is value or value in Right


def test_a_dataclass_is_made_without_its_own_code():
    user = User(1)
    user.secret = "set later"
    body = written(user)
    made = User.made
    found = decode_body(body)
    assert User.made == made
    assert (found.secret, found.tags) == ("set later", set())
    assert found.tags is not decode_body(body).tags


def test_a_model_keeps_what_was_set_and_what_is_private():
    profile = Profile(age=3, address={"city": "Ö", "zip": "1"}, nick="x")
    profile._seen = 7
    found = decode_body(written({"p": profile}))["p"]
    assert found.model_dump() == profile.model_dump()
    assert found.model_fields_set == {"age", "address", "nick"}
    assert (found._seen, found.nick, type(found.address)) == (7, "x", Address)


def test_a_model_that_is_generic_is_registered_as_what_it_is_of():
    register_type(Holder[int])
    assert decode_body(written(Holder[int](content=5))) == Holder[int](content=5)
    assert decode_body(written(Holder(content="x"))) == Holder(content="x")


# What is not written.


@dataclasses.dataclass
class Unregistered(User):
    pass


def _with_more():
    user = User(1)
    user.nickname = "x"
    return user


def _without():
    user = User(1)
    del user.tags
    return user


@pytest.mark.parametrize(
    "value",
    [
        Unregistered(1), _with_more(), _without(), User("one"), User(1, tags={1}), Point("x"),
        Box(object()),
        Row("a"), File(size=-1), Profile.model_construct(age=-1), Profile.model_construct(age="1"),
        Numbers.model_construct(root=["1"]), Profile.model_construct(age=1, _fields_set={"a"}),
    ],
)  # fmt: skip
def test_what_could_not_be_read_is_not_written(value):
    with pytest.raises(UnsupportedValueError, match=r"tests\.core\.shared|object"):
        written([value])


def test_a_struct_that_its_own_code_would_refuse_is_not_written():
    query = Query(["a"])
    assert decode_body(written(query)).words == ["a"]
    query.words = []
    with pytest.raises(UnsupportedValueError, match="Query: OtherTypeError"):
        written(query)
    query.words = ["B"]
    assert decode_body(written(query)).words == ["B"], "as it was, not as its __post_init__ makes it"


def test_what_can_be_computed_again_is_left_out():
    @register_type
    @dataclasses.dataclass
    class Circle:
        radius: float

        @functools.cached_property
        def area(self):
            return 3 * self.radius**2

    circle = Circle(2.0)
    assert circle.area == 12.0
    found = decode_body(written(circle))
    assert vars(found) == {"radius": 2.0}
    assert found.area == 12.0


def test_a_circle_of_instances_is_not_written():
    box = Box(1)
    box.next = box
    with pytest.raises(UnsupportedValueError, match="nested deeper"):
        written(box)


def test_those_who_do_not_ask_for_it_write_plain_data_only():
    with pytest.raises(UnsupportedValueError, match="Role"):
        encode_body(Role.USER)


# What is not read.


def forged(key, *items):
    return encode_extension(msgspec.msgpack.encode([key, *items]))


def encode_extension(data):
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(15, data))


def key_of(kind):
    return REGISTRY.by_type[kind].key


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        (User, []), (User, [1]), (User, ["1", None, None, [], ""]), (User, [1, 2, 3, 4, 5, 6]),
        (Role, ["NONE"]),
        (Role, [1]), (Role, []), (Role, ["__class__"]), (Role, [["USER"]]), (Right, [True]),
        (Right, ["READ"]),
        (Right, [64]), (Point, [1]), (Point, ["1", 2]), (Row, [1, 2]), (File, [-1, "", None]),
        (File, ["1", "", None]),
        (Query, [[]]), (Profile, [1, None, None, [], None, None]), (Profile, [-1]),
        (Numbers, [["1"], ["root"], None, None]), (Numbers, [[1], "root", None, None]),
        (Address, ["c", "z", ["city", "nowhere"], None, None]), (Address, ["c", 1, [], None, None]),
        (Address, ["c", "z", [], {"__class__": 1}, None]), (Address, ["c", "z", [], None, {"_x": 1}]),
    ],
)  # fmt: skip
def test_foreign_bytes_make_no_instance(kind, items):
    with pytest.raises(CorruptPayloadError):
        decode_body(forged(key_of(kind), *items))


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval#0", "tests.core.shared.test_registered_types.User"]
)
def test_a_name_that_is_not_registered_makes_nothing(name):
    with pytest.raises(OtherTypeError, match="is not registered here, or has other fields here"):
        decode_body(forged(name, "true"))


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x01", b"\x91\x01", pickle.dumps(User(1)), b"\xc1"])
def test_what_is_no_instance_at_all_is_refused(data):
    with pytest.raises(CorruptPayloadError):
        decode_body(encode_extension(data))


def test_instances_within_instances_have_an_end():
    data = msgspec.msgpack.encode([key_of(Box), 1, None])
    for _ in range(200):
        data = msgspec.msgpack.encode([key_of(Box), 1, msgspec.msgpack.Ext(15, data)])
    with pytest.raises(CorruptPayloadError):
        decode_body(encode_extension(data))


def test_many_are_read_within_the_bounds_of_a_body():
    value = [User(n, tags={str(n)}) for n in range(3000)]
    assert decode_body(written(value)) == value


@searching(100)
@given(st.sampled_from([User(1), Point(1.0), Role.USER, Row(1), File(size=1), Profile(age=1)]), st.data())
def test_a_byte_that_was_changed_is_a_value_or_an_error_of_ours(value, data):
    body = bytearray(written(value))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_body(bytes(body))
    except CorruptPayloadError:
        return
    if type(found) is type(value) and not isinstance(value, enum.Enum):
        written(found)


# Two deployments.


def defined_in(module, name, fields, **options):
    kind = dataclasses.make_dataclass(name, fields, **options)
    kind.__module__ = module  # Python 3.12 has an argument for it, and overrules the namespace
    return kind


def deployed(fields, **options):
    return defined_in("bot.models", "Deployed", fields, **options)


def test_a_class_with_other_fields_reads_nothing_of_before():
    old = register_type(deployed([("id", int)]))
    body = written(old(1))
    REGISTRY.by_key.pop(key_of(old))  # as in another process
    new = register_type(deployed([("id", int), ("name", str, "")]))
    with pytest.raises(
        OtherTypeError, match=r"bot\.models\.Deployed#\w+' is not registered here, or has other"
    ):
        decode_body(body)
    assert decode_body(written(new(1))) == new(1)
    REGISTRY.check_invariants()


def test_a_field_with_another_type_reads_nothing_of_before():
    body = written(register_type(deployed([("id", str)]))("1"))
    register_type(deployed([("id", int)]))
    with pytest.raises(OtherTypeError, match="the str of the field id does not fit its type"):
        decode_body(body)


def test_an_enum_with_other_members_reads_nothing_of_before():
    def colours(*names):
        return register_type(enum.Enum("Colour", names, module="bot.models"))

    old = colours("RED", "GREEN")
    body = written(old.GREEN)
    new = colours("RED")
    assert decode_body(body) is old.GREEN, "in this process the class is still known"
    REGISTRY.by_key.pop(next(key for key in REGISTRY.by_key if REGISTRY.by_key[key].kind is old))
    with pytest.raises(OtherTypeError):
        decode_body(body)
    assert decode_body(written(new.RED)) is new.RED


def test_a_class_that_is_defined_again_takes_the_place_of_the_one_before():
    first, second = deployed([("id", int)]), deployed([("id", int)])
    register_type(first)
    body = written(first(1))
    register_type(second)
    assert type(decode_body(body)) is second
    with pytest.raises(UnsupportedValueError):
        written(first(1))
    REGISTRY.check_invariants()


# Registering.


def test_one_name_in_two_modules_is_two_types():
    a = register_type(defined_in("bot.a", "Same", [("x", int)]))
    b = register_type(defined_in("bot.b", "Same", [("x", int)]))
    assert [type(decode_body(written(kind(1)))) for kind in (a, b)] == [a, b]
    with pytest.raises(
        ValueError, match=r"name = 'bot\.a\.Same': expected one that does not stand for bot\.a"
    ):
        register_type(b, name="bot.a.Same")


def test_a_name_of_its_own_outlives_a_move_to_another_module():
    old = register_type(dataclasses.make_dataclass("Old", [("x", int)]), name="moved")
    body = written(old(1))
    del REGISTRY._names["moved"], REGISTRY.by_type[old]  # as in another process
    new = register_type(name="moved")(dataclasses.make_dataclass("New", [("x", int)]))
    assert decode_body(body) == new(1)


class Plain:
    pass


class Lazy(list):
    pass


@dataclasses.dataclass
class Listed(list):
    x: int = 0


@dataclasses.dataclass
class Failed(Exception):
    x: int = 0


class Slotted:
    __slots__ = ("hidden",)


@dataclasses.dataclass
class Hiding(Slotted):
    x: int = 0


@pytest.mark.parametrize(
    "given", [Plain, Lazy, Listed, Failed, Hiding, int, dict, Box[int], User(1), "User", 5, Any], ids=repr
)
def test_only_classes_that_are_their_fields_are_registered(given):
    with pytest.raises(TypeError, match=r"register_type = .*expected"):
        register_type(given)


@pytest.mark.parametrize("name", ["", 5, "x" * 501, "a\nb", b"x"])
def test_a_name_is_checked(name):
    with pytest.raises(ValueError, match="name = "):
        register_type(User, name=name)
