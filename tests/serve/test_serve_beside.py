"""What is passed on of the server beside this one, the page's files and headers, who may ask without a key."""
import dataclasses
import fnmatch
import json
import pathlib
import re

import endpoint as ep
import httpx
import pytest
from serve_helpers import CONFIG

from easylm_imitation.cli.main import main
from easylm_imitation.schema import UserError
from easylm_imitation.serve import BesideConfig, open_server
from easylm_imitation.serve.chat_page import CSP, FILES

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "easylm_imitation" / "serve" / "page"
ASK = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def two(served_model):
    """(a client of a server, the endpoint beside it)."""
    endpoint = ep.Endpoint(models=[{"id": "other", "max_model_len": 77}])
    with ep.serving(endpoint) as other, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRST", "first-key")
        patch.setenv("SECOND", "second-key")
        config = dataclasses.replace(CONFIG, api_key_env="FIRST",
                                     beside=BesideConfig(other.url + "/v1/", api_key_env="SECOND"))
        with open_server(served_model, config) as running:
            headers = {"Authorization": "Bearer first-key"}
            with httpx.Client(base_url=running.url, headers=headers, timeout=60) as client:
                yield client, other


def test_the_page_hears_of_both_models(two):
    client, other = two
    assert client.get("/page/models").json()["models"] == [
        {"name": "tiny", "route": "v1", "chat": True, "context": 96, "error": None},
        {"name": "other", "route": "beside/v1", "chat": True, "context": 77, "error": None}]
    kept, other.models = other.models, [{"id": "a"}, {"id": "b"}]
    try:
        assert "serves 2 models" in client.get("/page/models").json()["models"][1]["error"]
    finally:
        other.models = kept


def test_a_server_of_ours_tells_whether_it_has_a_template(served_model):
    base = dataclasses.replace(served_model, template=None)
    for model in (base, served_model):
        with open_server(model, CONFIG) as other:
            config = dataclasses.replace(CONFIG, beside=BesideConfig(other.url))
            with open_server(base, config) as running:
                here, there = httpx.get(f"{running.url}/page/models").json()["models"]
                assert (here["chat"], there["chat"]) == (False, model is served_model)
                body = {"prompt": "The sky", "temperature": 0, "max_tokens": 5}
                asked = [httpx.post(f"{url}/completions", json=body, timeout=60).json()["choices"]
                         for url in (f"{other.url}/v1", f"{running.url}/beside/v1")]
                assert asked[0] == asked[1]


def test_each_server_sees_its_own_key_and_the_model_is_named(two):
    client, other = two
    answer = client.post("/beside/v1/chat/completions", json=ASK)
    assert answer.json()["choices"][0]["message"]["content"] == "answer to a"
    assert other.requests[-1] == {"model": "other", **ASK}
    seen = {name.lower(): value for name, value in other.headers[-1].items()}
    assert seen["authorization"] == "Bearer second-key"
    assert "first-key" not in json.dumps(other.headers)
    assert client.post("/beside/v1/chat/completions", json=ASK, headers={"Authorization": ""}).status_code == 401
    for path in ("/beside/v1/models", "/beside/v1/score", "/beside/v1/chat/completions/../../metrics"):
        assert client.request("POST", path, json=ASK).status_code == 404
    assert client.post("/beside/v1/completions", content=b"[1]").status_code in (400, 415)


@pytest.mark.parametrize(("said", "place"), [
    ('{"temperature": NaN}', "temperature"), ('{"top_p": 1e999}', "top_p"),
    ('{"messages": [{"content": "a"}, {"content": [-Infinity]}]}', "messages.1.content.0")])
def test_numbers_that_json_does_not_have_are_refused_by_name(two, said, place):
    client, other = two
    before = len(other.requests)
    for path in ("chat/completions", "completions"):
        answer = client.post(f"/beside/v1/{path}", content=said, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, place)
        assert answer.json()["error"]["message"].startswith(f"{place}: ")
    assert len(other.requests) == before


@pytest.mark.parametrize(("manner", "status", "says"), [
    (lambda h, b, n: ep.send(h, 401, {"error": {"message": "no"}}), 502, "should check $SECOND"),
    (lambda h, b, n: ep.send(h, 404, {"error": {"message": "no such model second-key"}}), 404, "no such model ***"),
    (lambda h, b, n: ep.send(h, 429, {"error": {"message": "slow"}}, [("Retry-After", "9")]), 429, "slow"),
    (lambda h, b, n: ep.send(h, 302, b"", [("Location", "http://127.0.0.1:9/")]), 502, ""),
    (lambda h, b, n: ep.send(h, 200, b"<script>alert(1)</script>", [("Content-Type", "text/html")]), 502, "not JSON"),
    (lambda h, b, n: ep.drop(h), 502, "does not answer")], ids=["401", "404", "429", "302", "html", "dropped"])
def test_failures_over_there_are_told_as_such(two, manner, status, says):
    client, other = two
    other.behave = manner
    answer = client.post("/beside/v1/chat/completions", json=ASK)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("retry-after") == ("9" if status == 429 else None)


def test_a_server_that_is_not_there_leaves_this_one_well(served_model, free_port):
    config = dataclasses.replace(CONFIG, beside=BesideConfig(f"http://127.0.0.1:{free_port}"))
    with open_server(served_model, config) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        here, there = client.get("/page/models").json()["models"]
        assert here["error"] is None
        assert "cannot be asked" in there["error"]
        assert client.post("/beside/v1/chat/completions", json=ASK).status_code == 502
        assert client.post("/v1/chat/completions", json=ASK).status_code == 200


@pytest.fixture
def free_port():
    """A port that nobody listens on."""
    with ep.serving(ep.Endpoint()) as gone:
        pass
    return int(gone.url.rpartition(":")[2])


def test_without_beside_there_is_no_such_route(http):
    assert http.post("/beside/v1/chat/completions", json=ASK).status_code == 404
    assert len(http.get("/page/models").json()["models"]) == 1


def test_a_bad_address_is_told_before_anything_is_loaded(capfd):
    assert main(["serve", "--model", "/no/such/model", "--port", "0", "--beside", "localhost:8001"]) == 2
    assert "'localhost:8001' is not the address of an endpoint" in capfd.readouterr().err
    with pytest.raises(UserError, match="carries a user, a password"):
        BesideConfig("http://me:secret@host/v1")


@pytest.mark.parametrize("path", ["/health", "/ready", *FILES])
def test_a_head_request_gets_the_headers_alone(http, path):
    answer, whole = http.head(path), http.get(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == whole.headers["content-type"]
    assert answer.headers["content-length"] == whole.headers["content-length"]


def test_the_pages_files_are_public_whole_and_under_a_strict_policy(http):
    assert CSP == ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
                   "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
                   "trusted-types 'none'")
    for path, name in FILES.items():
        answer = http.get(path)
        assert (answer.status_code, answer.content) == (200, (PAGE / name).read_bytes())
        assert answer.headers["content-security-policy"] == CSP
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in answer.headers
    assert {file.name for file in PAGE.iterdir()} == {*FILES.values(), "marked.LICENSE.txt"}
    assert http.get("/page/../api.py").status_code == 404
    assert http.get("/page/%2e%2e/api.py").status_code == 404


def test_the_package_ships_each_file_of_the_page():
    patterns = re.findall(r'"\*\*/([^"]+)"', (ROOT / "setup.py").read_text())
    assert [file.name for file in PAGE.iterdir() if not any(fnmatch.fnmatch(file.name, one) for one in patterns)] == []


def test_the_page_has_no_inline_code_and_makes_no_html_of_text():
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|https?://|//[a-z]", html)
    for file in PAGE.glob("*.js"):
        if file.name != "marked.js":        # which has a renderer to HTML that is not used
            careless = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://"
            assert not re.search(careless, file.read_text()), file


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1:80", 200), ("localhost", 200), ("LOCALHOST:8000", 200), ("chat.localhost:1", 200), ("[::1]:8000", 200),
    ("192.168.1.7:8000", 200), ("evil.example:8000", 403), ("127.0.0.1.evil.example", 403), ("localhost.evil", 403)])
def test_a_server_without_a_key_answers_to_no_name_of_a_stranger(http, host, status):
    """Else a web page could point its own name at 127.0.0.1 and read the answers (DNS rebinding)."""
    assert http.get("/v1/models", headers={"Host": host}).status_code == status
    assert http.get("/health", headers={"Host": host}).status_code == 200


def test_with_a_key_any_name_will_do(two):
    client, _ = two
    assert client.get("/v1/models", headers={"Host": "models.example"}).status_code == 200
