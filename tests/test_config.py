from pathlib import Path

import pytest

from icehouse.config import ServerSettings
from icehouse.errors import InvalidFormat


def write_file(folder: Path, text: str) -> dict[str, object]:
    (folder / "icehouse.toml").write_text(text)
    return {"data_dir": folder}


def test_without_anything_said_the_defaults_hold() -> None:
    settings = ServerSettings.load({}, {"HOME": "/root", "ICEHOUSE_URL": "the client's", "ICEHOUSE_TOKEN": "too"})
    assert settings == ServerSettings()
    assert settings.url == "http://127.0.0.1:8080"


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    flags = write_file(tmp_path, 'host = "file"\nport = 1\nworkers = 4\n') | {"host": "flag"}
    settings = ServerSettings.load(flags, {"ICEHOUSE_HOST": "environment", "ICEHOUSE_PORT": "2"})
    assert (settings.host, settings.port, settings.workers) == ("flag", 2, 4)


def test_an_empty_variable_says_nothing() -> None:
    assert ServerSettings.load({}, {"ICEHOUSE_PORT": ""}).port == 8080


def test_the_data_folder_of_the_environment_holds_the_file(tmp_path: Path) -> None:
    write_file(tmp_path, "port = 9\n")
    assert ServerSettings.load({}, {"ICEHOUSE_DATA_DIR": str(tmp_path)}).port == 9


def test_all_faults_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    flags = write_file(tmp_path, 'colour = "red"\nzstd_level = 20\ndata_dir = "/elsewhere"\n') | {"port": 70_000}
    with pytest.raises(InvalidFormat) as caught:
        ServerSettings.load(flags, {"ICEHOUSE_PUBLIC_URL": "cache.example.org"})
    message = str(caught.value)
    assert len(message.splitlines()) == 5
    for part in ("'colour'", "zstd_level: 20", "'data_dir'", "--port: 70000", "$ICEHOUSE_PUBLIC_URL"):
        assert part in message


@pytest.mark.parametrize("text", ["port = ", "\x00", "port = 1\nport = 2"])
def test_a_file_that_is_not_toml_is_a_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidFormat, match="not TOML"):
        ServerSettings.load(write_file(tmp_path, text), {})


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("5KiB", 5 * 1024), ("64 GiB", 64 * 1024**3), ("2TiB", 2 * 1024**4)]
)
def test_a_size_is_bytes_or_has_a_unit(text: str, size: int) -> None:
    assert ServerSettings.load({"max_nar_bytes": text}, {}).max_nar_bytes == size


@pytest.mark.parametrize("text", ["0", "-1", "GiB", "1GB", "1.5GiB", "4096TiB4", "9999999TiB", "\u0661"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="--max-nar-bytes"):
        ServerSettings.load({"max_nar_bytes": text}, {})


@pytest.mark.parametrize(
    "url",
    [
        "example.org",
        "ftp://example.org",
        "https://",
        "https://example.org/caches",
        "https://e.org?x=1",
        "http://u:p@e.org",
    ],
)
def test_a_public_url_that_caches_cannot_be_below_is_refused(url: str) -> None:
    with pytest.raises(InvalidFormat, match="--public-url"):
        ServerSettings.load({"public_url": url}, {})


def test_a_public_url_loses_its_last_slash() -> None:
    assert ServerSettings.load({"public_url": "https://cache.example.org/"}, {}).url == "https://cache.example.org"


def test_an_ipv6_host_stands_in_brackets_in_the_url() -> None:
    assert ServerSettings(host="::1").url == "http://[::1]:8080"


def test_trusted_proxies_are_a_list_in_the_file_and_words_in_the_environment(tmp_path: Path) -> None:
    expected = ("10.0.0.0/8", "192.0.2.1/32")
    flags = write_file(tmp_path, 'trusted_proxies = ["10.1.2.3/8", "192.0.2.1"]\n')
    assert ServerSettings.load(flags, {}).trusted_proxies == expected
    assert ServerSettings.load({}, {"ICEHOUSE_TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1"}).trusted_proxies == expected


@pytest.mark.parametrize("value", ['"everyone"', "7", '["10.0.0.0/33"]'])
def test_a_proxy_that_is_no_address_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(InvalidFormat, match="trusted_proxies"):
        ServerSettings.load(write_file(tmp_path, f"trusted_proxies = {value}\n"), {})


@pytest.mark.parametrize("flags", [{"log_level": "loud"}, {"log_format": "xml"}, {"workers": 0}, {"port": True}])
def test_a_value_outside_its_choices_is_refused(flags: dict[str, object]) -> None:
    with pytest.raises(InvalidFormat, match="expected"):
        ServerSettings.load(flags, {})


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("90", 90), ("6h", 21_600), ("1w", 604_800), (30, 30)])
def test_span_of_time_is_seconds_or_has_a_unit(text: object, seconds: int) -> None:
    assert ServerSettings.load({"collect_seconds": text}, {}).collect_seconds == seconds


@pytest.mark.parametrize("text", ["-1", "h", "1.5h", "6 hours", "9999999999", "367d", True, "\u0661"])
def test_other_spans_are_refused(text: object) -> None:
    with pytest.raises(InvalidFormat, match="--collect-seconds"):
        ServerSettings.load({"collect_seconds": text}, {})


def test_roles_are_a_list_in_the_file_and_parted_by_semicolons_in_the_environment(tmp_path: Path) -> None:
    issuer = 'oidc_issuer = "https://id.example.org"\noidc_client_id = "icehouse"\n'
    expected = ("dev=pull,push:team-*", "ops=admin:*")
    flags = write_file(tmp_path, f'{issuer}oidc_roles = ["dev=pull,push:team-*", "ops=admin:*"]\n')
    assert ServerSettings.load(flags, {}).oidc_roles == expected
    assert ServerSettings.load({}, {"ICEHOUSE_OIDC_ROLES": "dev=pull,push:team-*; ops=admin:*"}).oidc_roles == expected


@pytest.mark.parametrize(
    "text",
    [
        'oidc_issuer = "http://id.example.org"',
        'oidc_issuer = "https://id.example.org"',
        'oidc_issuer = "https://id.example.org"\noidc_client_id = "icehouse"',
        'oidc_roles = ["dev=fly:*"]',
        "oidc_roles = 7",
    ],
)
def test_login_that_nobody_could_use_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidFormat, match="oidc_"):
        ServerSettings.load(write_file(tmp_path, f"{text}\n"), {})
