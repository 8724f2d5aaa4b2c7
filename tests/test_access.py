import pytest

from pellucid.access import Access, Tokens, listen, read_tokens
from pellucid.errors import InputError

TOKENS = Tokens(["a-token-of-some-length"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_token(host):
    try:
        listen(Access(host=host, port=0)).close()
    except InputError as error:  # a machine without IPv6
        assert host == "::1" and "can't be listened on" in str(error)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_addresses_need_one(host):
    with pytest.raises(InputError, match="--token-file"):
        listen(Access(host=host, port=0))


@pytest.mark.parametrize("how", [{"tokens": TOKENS}, {"public": True}])
def test_or_the_word_that_it_is_meant(how):
    listen(Access(host="0.0.0.0", port=0, **how)).close()


def test_addresses_that_can_not_be_bound():
    with listen(Access(port=0)) as bound:
        bound.listen()
        with pytest.raises(InputError, match="Choose another --port"):
            listen(Access(port=bound.getsockname()[1]))
    with pytest.raises(InputError, match="not known"):
        listen(Access(host="no-such-host.invalid"))


def test_tokens():
    assert TOKENS.allow(b"a-token-of-some-length")
    assert not TOKENS.allow(b"a-token-of-some-lengtH")
    assert not TOKENS.allow(b"")
    assert "a-token" not in repr(vars(TOKENS)) + repr(Access(tokens=TOKENS))
    with pytest.raises(InputError, match="16") as caught:
        Tokens(["short-secret"])
    assert "short-secret" not in str(caught.value)


def test_files_of_tokens(tmp_path):
    (tmp_path / "tokens").write_text("a-token-of-some-length\n\nanother-token-of-one\n")
    assert read_tokens(tmp_path / "tokens").allow(b"another-token-of-one")
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    for name in ("empty", "binary", "missing"):
        with pytest.raises(InputError, match="file of tokens"):
            read_tokens(tmp_path / name)


def test_hosts():
    assert "127.0.0.1" in Access().allowed_hosts
    assert not Access(tokens=TOKENS).allowed_hosts
    for how in ({}, {"tokens": TOKENS}, {"public": True}):
        access = Access(hosts=("a.example",), **how)  # one more: a check of the machine's own still gets in
        assert access.allowed_hosts == {"localhost", "127.0.0.1", "[::1]", "a.example"}
