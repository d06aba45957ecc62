"""The one client of OpenAI-compatible endpoints: asynchronous, bounded, patient with the busy, clear with the hopeless.

    async with Client(ClientConfig("http://127.0.0.1:8000")) as client:
        reply = await client.chat([{"role": "user", "content": "Where is Oslo?"}], max_tokens=64)

Waiting may mend 408, 409, 425, 429, 5xx, time-outs, broken connections and bodies of an unexpected form: these are
tried again after a growing, jittered pause, never shorter than `Retry-After`, which is believed up to
`longest_retry_after` seconds. A 429 holds back *all* requests of the client: a limit is the account's, not the
request's. A wrong key, address or model raises UserError at once; a request that the server refuses (400, 422) raises
RequestFailed, as others may still be good. The key comes from the environment, goes into one header, and is scrubbed
from every message, and from answers if it is long enough for a secret.
"""
from easylm_imitation.client.answers import Reply, ServedModel, Spoiled, message_of
from easylm_imitation.client.client import Client, ClientConfig, Closing, RequestFailed, base_url, for_each, with_client
from easylm_imitation.client.loops import Loops, check_stopped, in_loop, stoppable
from easylm_imitation.client.rates import Bucket, prompt_tokens

__all__ = ["Bucket", "Client", "ClientConfig", "Closing", "Loops", "Reply", "RequestFailed", "ServedModel", "Spoiled",
           "base_url", "check_stopped", "for_each", "in_loop", "message_of", "prompt_tokens", "stoppable",
           "with_client"]
