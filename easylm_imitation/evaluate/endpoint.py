"""What is behind an address, or in this process: the model, its lineage, and what is told of its tokenizer."""
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from easylm_imitation.client import Client, ClientConfig, ServedModel, with_client
from easylm_imitation.files import digest
from easylm_imitation.records import Lineage

if TYPE_CHECKING:
    from easylm_imitation.serve import LocalModel

HERE = "this process:"      # in the place of http://HOST:PORT


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server that answered, or a model of this process."""
    base: str                               # .../v1
    model: ServedModel
    tokenizer: dict[str, Any] | None        # /tokenizer_info; None where there is none
    key: str = dataclasses.field(repr=False)
    local: Optional["LocalModel"] = None

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


def look_inside(local: "LocalModel") -> Endpoint:
    """The same of a model in this process."""
    service = local.service
    served = ServedModel(service.name, service.lineage, service.context)
    return Endpoint(f"{HERE}/v1", served, service.tokenizer_info(), "", local)


def lineage_of(base: str, model: ServedModel) -> Lineage:
    """The lineage that the server gives; for one that gives none, an identity made of address and name."""
    if model.lineage is not None:
        return model.lineage
    own = digest(["endpoint", base, model.id])
    return Lineage(id=own, name=model.id, base=own, base_name=model.id)


def text_before_raw(info: Mapping[str, Any]) -> str:
    """The beginning-of-text token that a raw prompt needs, by a server's /tokenizer_info; "" for none."""
    return (info.get("bos_token") or "") if info.get("add_bos_token") else ""
