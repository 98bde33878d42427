import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from shared.config import (
    SECTIONS,
    Config,
    EndpointConfig,
    OperatorConfig,
    Secret,
    SourceConfig,
    config_file,
    load_config,
)
from shared.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "deploy" / "config.example.toml"


def load(tmp_path: Path, text: str = "", **environ: str) -> Config:
    path = tmp_path / "correio.toml"
    path.write_text(text)
    return load_config({"CORREIO_CONFIG": str(path), **environ})


def builtins(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=Secret.reveal))


def test_the_example_can_be_loaded_as_it_stands() -> None:
    config = load_config({"CORREIO_CONFIG": str(EXAMPLE)})
    assert [source.name for source in config.source] == ["klavi"]
    assert [endpoint.id for endpoint in config.endpoint] == ["crm"]


def test_the_example_shows_every_field_with_its_true_default() -> None:
    shown = tomllib.loads(re.sub(r"^#: ", "", EXAMPLE.read_text(), flags=re.MULTILINE))
    defaults = builtins(Config())
    for section in SECTIONS:
        assert shown[section] == defaults[section], section
    for kind, struct, given in (
        ("source", SourceConfig, {"name", "secrets", "partner_app_ids"}),
        ("endpoint", EndpointConfig, {"id", "url", "secrets", "types"}),
        ("operator", OperatorConfig, {"name", "secrets"}),
    ):
        (table,) = shown[kind]
        fields = {one.name: one for one in msgspec.structs.fields(struct)}
        assert set(table) == set(fields)
        for name in set(fields) - given:
            field = fields[name]
            made = field.default_factory is not msgspec.NODEFAULT
            default = builtins(field.default_factory() if made else field.default)
            assert table[name] == ("" if default is None else default), name


def test_a_file_and_the_environment_over_it(tmp_path: Path) -> None:
    secret = tmp_path / "broker-url"
    secret.write_text("amqp://other/\n")
    config = load(
        tmp_path,
        "[receiver]\nport = 1\nhost = 'a'\n",
        CORREIO_RECEIVER__PORT="2",
        CORREIO_CALLBACKS__SCHEDULE="[1, 2.5]",
        CORREIO_BROKER__DECLARE_MISSING="false",
        CORREIO_BROKER__URL_FILE=str(secret),
    )
    assert (config.receiver.port, config.receiver.host) == (2, "a")
    assert config.callbacks.schedule == (1.0, 2.5)
    assert config.broker.declare_missing is False
    assert config.broker.url == Secret("amqp://other/")


def test_secrets_of_a_source_may_live_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secrets"
    secret.write_text("new-secret\nold-secret\n")
    text = '[[source]]\nname = "klavi"\nsecrets_file = "{}"\nsecrets = ["third-secret"]'
    config = load(tmp_path, text.format(secret))
    assert config.source[0].secrets == (
        Secret("new-secret"), Secret("old-secret"), Secret("third-secret"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["source", "endpoint", "operator"])
@pytest.mark.parametrize(("value", "said"), [('"a secret"', "str"), ("7", "int"), ("{}", "obj")])
def test_secrets_beside_a_file_are_a_list(tmp_path: Path, kind: str, value: str, said: str) -> None:
    (tmp_path / "secrets").write_text("x" * 20)
    fields = {**GIVEN[kind], "secrets_file": str(tmp_path / "secrets")}
    del fields["secrets"]
    text = "\n".join([f"[[{kind}]]", *(f"{one} = {toml(given)}" for one, given in fields.items())])
    expected = rf"{kind}\[0\].secrets: Expected `array`, got `{said}.*` \(from .*toml\)"
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path, f"{text}\nsecrets = {value}")


@pytest.mark.parametrize("secret", ["", "1234567", " " * 20, "1234567 \t"])
@pytest.mark.parametrize("signed", ["true", "false"])
def test_a_secret_that_anyone_may_guess_is_refused(
    tmp_path: Path, secret: str, signed: str
) -> None:
    secrets = json.dumps(["a longer one", secret])
    text = f'[[source]]\nname = "a"\nrequire_signature = {signed}\nsecrets = {secrets}'
    with pytest.raises(ConfigError, match=r"source a: secrets must have at least 8 .*\(from"):
        load(tmp_path, text)


def test_a_body_that_could_never_be_held_is_refused(tmp_path: Path) -> None:
    text = "[receiver]\nmax_body_bytes = {}\nmax_buffered_bytes = 1000"
    assert load(tmp_path, text.format(1000)).receiver.max_body_bytes == 1000
    said = r"receiver.max_body_bytes: expected at most receiver.max_buffered_bytes, 1000 \(from .*"
    with pytest.raises(ConfigError, match=said + r"toml\)"):
        load(tmp_path, text.format(1001))
    with pytest.raises(ConfigError, match=said + r"BODY_BYTES\)"):
        load(tmp_path, text.format(1000), CORREIO_RECEIVER__MAX_BODY_BYTES="1001")


def test_a_secret_never_shows_itself(tmp_path: Path) -> None:
    config = load(tmp_path, CORREIO_BROKER__URL="amqp://user:hunter2@host/")
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(config.broker.url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[receiver]\nport = 'x'", r"receiver.port: Expected `int`, got `str` \(from .*toml\)"),
        ("[receiver]\nport = 70000", r"receiver.port: Expected `int` <= 65535"),
        ("[receiver]\nprot = 1", "unknown field `prot`"),
        ("[reciever]\nport = 1", "unknown field `reciever`"),
        ("[callbacks]\njitter = 2.0", r"callbacks.jitter: Expected `float` <= 1.0"),
        ("[callbacks]\nschedule = [0.0]", r"callbacks.schedule\[0\]: Expected `float` > 0.0"),
        ("[broker]\ndeclare_missing = 1", "broker.declare_missing: Expected `bool`, got `int`"),
        ("[broker]\nurl = 1", "broker.url"),
        ("[broker]\nurl = 'localhost'", r"broker.url: expected amqp://host or amqps://host \(from"),
        ("[broker]\nurl = ''", "broker.url: expected amqp://host"),
        ("[broker]\nurl = 'amqp://host:many/'", "broker.url: expected amqp://host"),
        ("[broker]\nmetrics_url = 'rabbitmq:15692'", "broker.metrics_url: expected http://host"),
        ("[telemetry]\notlp_endpoint = 'x'", "telemetry.otlp_endpoint: expected http://host"),
        (
            "[log]\nlevel = 'loud'",
            "log.level: Invalid enum value 'loud'; allowed are debug, info, warning, error",
        ),
        ("[[source]]\nname = 'a b'\nsecrets = ['x']", "source"),
        ("[[source]]\nname = 'a'", "source a: secrets is empty but require_signature is true"),
        ("[[endpoint]]\nid = 'e'\nurl = 'http://x'", "endpoint e: secrets is empty"),
        ("port = ", "Invalid value"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CORREIO_RECEIVER__PORT", "many", "CORREIO_RECEIVER__PORT: Expected `int`"),
        ("CORREIO_RECEIVER__PROT", "1", "no field 'prot' in .receiver.; fields are body_timeout"),
        ("CORREIO_RECIEVER__PORT", "1", "no section 'reciever'; sections are broker"),
        ("CORREIO_BROKER__URL_FILE", "/none", "cannot read /none"),
        ("CORREIO_RECEIVER__PORT_FILE", "/dev/null", "only secrets can be read from a file"),
        ("CORREIO_LOG__LEVEL", "loud", "CORREIO_LOG__LEVEL"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, **{variable: value})


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    table = "[[source]]\nname = 'a'\nsecrets = ['a secret']\n"
    with pytest.raises(ConfigError, match="source: a stands twice"):
        load(tmp_path, table * 2)


def test_the_file_is_the_one_named_or_that_of_the_folder_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_file({"CORREIO_CONFIG": "/nowhere/x.toml"}) == Path("/nowhere/x.toml")
    assert config_file({}) is None
    (tmp_path / "correio.toml").touch()
    assert config_file({}) == Path("correio.toml")


def test_a_named_file_must_exist() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config({"CORREIO_CONFIG": "/nowhere/correio.toml"})


TABLES = {"source": SourceConfig, "endpoint": EndpointConfig, "operator": OperatorConfig}
GIVEN: dict[str, dict[str, Any]] = {
    "source": {"name": "a", "secrets": ["a secret"]},
    "endpoint": {"id": "a", "url": "http://x", "secrets": ["x"]},
    "operator": {"name": "a", "secrets": ["x" * 20]},
}


def wrong_values(kind: Any) -> list[tuple[Any, str]]:
    """Values that a field of this type must refuse, each with what is said to be allowed."""
    if get_origin(kind) is Annotated:
        inner, bounds = kind.__origin__, kind.__metadata__[0]
        found = wrong_values(inner)
        if bounds.ge is not None:
            found.append((inner(bounds.ge) - 1, f"`{inner.__name__}` >= "))
        if bounds.gt is not None:
            found.append((inner(bounds.gt), f"`{inner.__name__}` > "))
        if bounds.le is not None:
            found.append((inner(bounds.le) + 1, f"`{inner.__name__}` <= "))
        if bounds.pattern is not None:
            found.append(("a b", "matching regex"))
        return found
    if get_origin(kind) is Literal:
        return [("loud", ", ".join(get_args(kind))), (1, "str")]
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return [("x", "array"), *(([value], said) for value, said in wrong_values(item))]
    if get_origin(kind) is dict:
        return [("x", "object"), ({"a": 1}, "str")]
    if get_origin(kind) is UnionType:
        return [(1, "str")]
    simple: dict[Any, list[tuple[Any, str]]] = {
        bool: [(1, "`bool`"), ("x", "`bool`")],
        int: [("x", "`int`"), (1.5, "`int`")],
        float: [("x", "`float`")],
        str: [(1, "`str`")],
        Secret: [(1, "`str`")],
    }
    return simple[kind]


def every_wrong_value() -> Iterator[tuple[str, str, Any, str]]:
    for section in SECTIONS:
        kinds = get_type_hints(type(getattr(Config(), section)), include_extras=True)
        for name, kind in kinds.items():
            for value, said in wrong_values(kind):
                yield section, name, value, said
    for table, struct in TABLES.items():
        for name, kind in get_type_hints(struct, include_extras=True).items():
            for value, said in wrong_values(kind):
                yield table, name, value, said


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.parametrize(("section", "name", "value", "said"), list(every_wrong_value()))
def test_every_field_refuses_what_it_cannot_use(
    tmp_path: Path, section: str, name: str, value: Any, said: str
) -> None:
    """The message names the field, the source of its value, and what is allowed."""
    fields = {**GIVEN.get(section, {}), name: value}
    head = f"[[{section}]]" if section in TABLES else f"[{section}]"
    text = "\n".join([head, *(f"{one} = {toml(given)}" for one, given in fields.items())])
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    message = str(refused.value)
    place = f"{section}[0].{name}" if section in TABLES else f"{section}.{name}"
    assert message.startswith(place)
    assert said in message
    assert message.endswith(f"(from {tmp_path}/correio.toml)")


def overridable() -> Iterator[tuple[str, str, str, str]]:
    """As variables, everything is text: what no text can be wrong for is left out."""
    for section, name, value, said in every_wrong_value():
        kind = get_type_hints(Config).get(section)
        if section in TABLES or get_type_hints(kind)[name] in (str, Secret):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if (get_type_hints(kind)[name] is bool and text == "1") or said == "str":
            continue  # means true; every variable is a text
        yield section, name, text, said


@pytest.mark.parametrize(("section", "name", "text", "said"), list(overridable()))
def test_every_variable_refuses_what_its_field_cannot_use(
    tmp_path: Path, section: str, name: str, text: str, said: str
) -> None:
    variable = f"CORREIO_{section}__{name}".upper()
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, **{variable: text})
    message = str(refused.value)
    assert message.startswith(variable)
    assert text in message
    assert said in message or "a list written as JSON" in message
