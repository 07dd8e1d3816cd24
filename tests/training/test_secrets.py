"""What a tracker is given of a run's settings has no secrets in it."""

import pytest

from seqdec.training.secrets import HIDDEN, without_secrets

SECRETS = {
    "an address": "https://ada:SECRET@host/data.csv",
    "a query": "https://host/data.csv?X-Amz-Signature=SECRET&part=1",
    "a header": "Authorization: Bearer SECRET",
    "JSON": '{"api_key": "SECRET", "level": 3}',
    "a key": "hf_SECRETSECRETSECRET",
    "the environment": "the-SECRET-of-this-machine",
}


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_secrets_in_settings_are_hidden(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_TOKEN", "the-SECRET-of-this-machine")
    config = {"flags": {"data": [text], "env": text}, "password": text}
    shown = without_secrets(config)
    assert "SECRET" not in str(shown) and str(shown).count(HIDDEN) == 3


def test_other_settings_are_shown_as_they_are():
    config = {
        "max_tokens": 512,
        "data": ["a=runs/data", "https://host/x?part=1", "text_tokens=40,author=me,tokenizer: gpt2"],
        "env": "Hopper-v5",
        "token": "",
        "x": None,
    }
    assert without_secrets(config) == config
