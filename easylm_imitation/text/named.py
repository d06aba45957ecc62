"""Templates by name or id, as configs, shards, runs and exports hold them."""
import re

from easylm_imitation.schema import UserError, nearest
from easylm_imitation.text.own_template import own_template
from easylm_imitation.text.template import TEMPLATES, Template, with_loss
from easylm_imitation.text.tokenizer import Tokenizer

OWN = "tokenizer"
_EXPORTED = re.compile(r"{#- ([a-z0-9-]+(:[a-z]+)?@[0-9a-f]{8}) -#}")     # how text/jinja.py begins


def get_template(name: str, tokenizer: Tokenizer | None = None) -> Template:
    """The template called `name`: "tulu", or "tulu:last" for one whose loss covers something else (one of LOSSES).

    "tokenizer" is the Jinja template that came with `tokenizer`; one that this package exported is taken for what it
    is. An id such as "chatml@0123abcd" counts when the definition is the same. Raises UserError.
    """
    wanted, _, identity = name.partition("@")
    base, _, loss = wanted.partition(":")
    template = _own(tokenizer) if base == OWN else TEMPLATES.get(base)
    if template is None:
        raise UserError(f"unknown template '{name}'{nearest(base, [*TEMPLATES, OWN])}")
    template = with_loss(template, loss) if ":" in wanted else template
    if identity and name != template.id:
        raise UserError(f"template '{name}' is defined otherwise in this version ({template.id}); build the data again")
    return template


def _own(tokenizer: Tokenizer | None) -> Template:
    if tokenizer is None:
        raise UserError(f"template '{OWN}': it comes with a tokenizer, and there is none here")
    exported = _EXPORTED.match(tokenizer.chat_template or "")
    try:
        return get_template(exported[1]) if exported else own_template(tokenizer)
    except UserError:       # of another version, or no template of ours: then it is what it says
        return own_template(tokenizer)
