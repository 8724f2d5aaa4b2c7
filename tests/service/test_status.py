import re

import pytest

from pellucid import errors


def test_models(client, restorer):
    told = client.get("/v1/models").json()
    assert told["recognizer"] == "recognizer"
    assert told["models"] == [
        {
            "name": "small",
            "structure": "daair_s",
            "parameters": restorer.spec.parameters,
            "weights_sha256": restorer.weights_sha256,
            "guided": False,
            "prompts": [],
            "device": "cpu",
            "precision": "float32",
            "default": True,
        }
    ]


def test_health(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


def test_it_is_not_ready_while_stopping(serve):
    with serve() as one, one.client() as client:
        one.service.stopping.set()
        reply = client.get("/readyz")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert client.post("/v1/restore").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_metrics_count_routes_and_never_paths(client):
    client.get("/v1/a-path-of-a-client")
    text = client.get("/metrics").text
    assert 'pellucid_requests_total{method="GET",route="other",status="404"}' in text
    assert "a-path-of-a-client" not in text
    assert "process_resident_memory_bytes" in text


def test_openapi_tells_every_route_with_examples(client):
    told = client.get("/openapi.json").json()
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            for status, response in operation["responses"].items():
                kind = response.get("content", {}).get("application/problem+json")
                if status[0] in "45":
                    assert kind, (path, status)
                    assert all(e["value"]["status"] == int(status) for e in kind["examples"].values())
    assert "HTTPValidationError" not in str(told)  # the framework's own shape, which no reply has
    restore = told["paths"]["/v1/restore"]["post"]
    assert "'null'" not in str(restore["requestBody"])
    assert {"image/png", "multipart/form-data"} <= set(restore["requestBody"]["content"])
    assert {"413", "415", "422", "429", "504"} <= set(restore["responses"])


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_loads_scripts_from_elsewhere(client, path):
    assert client.get(path).status_code == 404


def test_problem_types_are_distinct():
    from pellucid.service.problems import describe

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    types = [describe(kind("a sentence."))["type"] for kind in kinds]
    assert len(set(types)) == len(kinds)
    assert all(re.fullmatch(r"urn:pellucid:problem:[a-z-]+", one) for one in types)
