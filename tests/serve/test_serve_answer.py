"""Stop strings, the template's lead, and what a stream may show."""
import random

import pytest

from easylm_imitation.serve.answer import AnswerText, Token


def grow(tokenizer, ids, stops=(), lead=""):
    """(pieces shown one after the other, whole text, whether a stop string was met)."""
    text = AnswerText(tokenizer, stops, lead)
    pieces = []
    for token_id in ids:
        hit = text.push(Token(token_id, -1.0))
        pieces.append(text.take())
        if hit:
            break
    text.finish()
    return [*pieces, text.take()], text.text, text.stopped


def test_text_without_stops_comes_as_it_is_decoded(served_model):
    tokenizer = served_model.tokenizer
    for said in ("The sky is blue.", "日本語 🙂 naïve", ""):
        pieces, text, stopped = grow(tokenizer, tokenizer.encode(said))
        assert ("".join(pieces), text, stopped) == (said, said, False)


def test_a_stream_never_shows_what_a_stop_string_takes_away(served_model):
    tokenizer, chance = served_model.tokenizer, random.Random(0)
    met = 0
    for _ in range(300):
        said = "".join(chance.choices("ab\n ü", k=12))
        stops = ["".join(chance.choices("ab\n ü", k=chance.randint(1, 4))) for _ in range(chance.randint(1, 3))]
        pieces, text, stopped = grow(tokenizer, tokenizer.encode(said), stops)
        ends = [said.index(stop) for stop in stops if stop in said]
        # Of several stop strings the one that is complete first wins; then the one that begins first.
        first_end = min((said.index(stop) + len(stop) for stop in stops if stop in said), default=None)
        assert "".join(pieces) == text
        assert stopped == bool(ends)
        if stopped:
            met += 1
            assert said.startswith(text)
            assert len(text) <= first_end
            assert any(said.startswith(stop, len(text)) for stop in stops)
            assert not any(stop in text for stop in stops)
        else:
            assert text == said
    assert met > 100


@pytest.mark.parametrize(("said", "shown"), [(" yes", "yes"), ("yes", "yes"), ("  yes", " yes"), (" ", ""), ("", "")])
def test_the_lead_of_a_template_is_taken_off_once(served_model, said, shown):
    pieces, text, _ = grow(served_model.tokenizer, served_model.tokenizer.encode(said), lead=" ")
    assert ("".join(pieces), text) == (shown, shown)


def test_tokens_behind_a_stop_string_are_not_reported(served_model):
    tokenizer = served_model.tokenizer
    text = AnswerText(tokenizer, ["is"])
    for token_id in tokenizer.encode("The sky is"):
        if text.push(Token(token_id, -1.0)):
            break
    assert tokenizer.decode([token.id for token in text.kept_tokens()]).startswith(text.text)
    assert text.text == "The sky "
