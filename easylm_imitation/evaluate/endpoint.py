"""What is behind an address: the model that is served, its lineage, and what the server tells of its tokenizer."""
import dataclasses
from collections.abc import Mapping
from typing import Any

from easylm_imitation.client import Client, ClientConfig, ServedModel, with_client
from easylm_imitation.records import Lineage, digest


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server that answered."""
    base: str                               # .../v1
    model: ServedModel
    tokenizer: dict[str, Any] | None        # /tokenizer_info; None where there is none
    key: str = dataclasses.field(repr=False)

    @property
    def lineage(self) -> Lineage:
        """The lineage that the server gives, or the identity of a model behind an address."""
        return lineage_of(self.base, self.model)


def look(config: ClientConfig) -> Endpoint:
    """Asks a server what it is. Raises UserError when it is not there, refuses, or does not serve the model."""
    async def ask(client: Client) -> Endpoint:
        served = await client.model()
        return Endpoint(client.base, served, await client.tokenizer_info(), client.key)
    return with_client(config, ask)


def lineage_of(base: str, model: ServedModel) -> Lineage:
    """The lineage that the server gives; for one that gives none, an identity made of address and name."""
    if model.lineage is not None:
        return model.lineage
    own = digest(["endpoint", base, model.id])
    return Lineage(id=own, name=model.id, base=own, base_name=model.id)


def text_before_raw(info: Mapping[str, Any]) -> str:
    """The beginning-of-text token that a raw prompt needs, by a server's /tokenizer_info; "" for none.

    Models of ours (which say `tokenizer_id`) read it before each document whenever their tokenizer has one.
    """
    wanted = info.get("add_bos_token", "tokenizer_id" in info)
    return (info.get("bos_token") or "") if wanted else ""
