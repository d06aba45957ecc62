// What the page asks of the server, and what goes wrong in words for a person.

const SLOT = "easylm_imitation.key";

// The key lives in sessionStorage: this tab only, gone with it.
export const key = {
  get: () => sessionStorage.getItem(SLOT) ?? "",
  set: (value) => (value ? sessionStorage.setItem(SLOT, value) : sessionStorage.removeItem(SLOT)),
};

// A failed request. `status` is HTTP's, or 0 when there was no answer; `message` is ready to be shown.
export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const LOST = "The server does not answer. Check that it is still running and that you are online, then try again.";
const BROKEN = "The connection broke before the answer was complete. What came so far is above.";

// The models that answer here: [{name, route, chat, context, error}].
export async function models() {
  return (await (await ask("page/models")).json()).models;
}

// Streams an answer. `onText` gets each piece as it comes. Resolves to {finish, usage}; aborting rejects with AbortError.
export async function stream(path, body, signal, onText) {
  const response = await ask(path, { method: "POST", body: JSON.stringify(body), signal });
  const result = { finish: null, usage: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return result;
    const event = parsed(data);
    if (event.error) throw new Failure(event.error.code || 500, explain(event.error.code || 500, event.error.message));
    const choice = event.choices?.[0];
    const text = choice?.delta?.content ?? choice?.text;
    if (text) onText(text);
    result.finish = choice?.finish_reason ?? result.finish;
    result.usage = event.usage ?? result.usage;
  }
  throw new Failure(0, BROKEN);
}

async function ask(path, options = {}) {
  const headers = options.body ? { "Content-Type": "application/json" } : {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", redirect: "error", cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(0, LOST);
  }
  if (response.ok) return response;
  throw new Failure(response.status, explain(response.status, await said(response), response.headers.get("Retry-After")));
}

async function said(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `it answered ${response.status} without saying why`;
  }
}

function explain(status, message, wait) {
  if (status === 401) return "The server did not accept the key.";
  if (status === 413) return `That was too long for this server: ${message}.`;
  if (status === 429) return `The server is busy: its queue is full. Try again in ${wait || "a few"} s.`;
  if (status === 503) return "The server is shutting down and takes no new messages.";
  if (status >= 500) return `The server could not answer: ${message}.`;
  return `The server did not accept this request: ${message}.`;
}

// The data of each server-sent event; comments, which keep a silent connection alive, are passed over.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(0, BROKEN);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Failure(0, "The server sent something that this page cannot read.");
  }
}
