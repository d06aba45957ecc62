// From a conversation to a request body. A turn is {text, answers: [an answer or nothing, one place a model]}.

const RAW_TOKENS = 256; // for a model without a template, when no maximum is set

// Path and body of the request that asks model `index` for its answer to the last of `turns`.
// A model is told the turns that it answered itself, never another model's answers.
export function request(models, index, turns, settings) {
  const model = models[index];
  const common = sampling(settings);
  const past = turns.slice(0, -1).filter((turn) => turn.answers[index]?.text).map((turn) => [turn.text, turn.answers[index].text]);
  const asked = turns.at(-1).text;
  if (model.chat) {
    return { path: `${model.route}/chat/completions`, body: { messages: messages(settings.system, past, asked), ...common } };
  }
  const transcript = settings.raw === "transcript";
  const stop = transcript ? [...(common.stop ?? []), "\nUser:"] : common.stop;
  const prompt = transcript ? dialogue(settings.system, past, asked) : [settings.system, asked].filter(Boolean).join("\n\n");
  const room = Math.max(1, Math.min(RAW_TOKENS, Math.floor((model.context ?? 2 * RAW_TOKENS) / 2)));
  return { path: `${model.route}/completions`, body: { prompt, max_tokens: room, ...common, ...(stop && { stop }) } };
}

function sampling({ temperature, top_p, max_tokens, seed, stop }) {
  const body = { temperature, top_p, stream: true, stream_options: { include_usage: true } };
  if (max_tokens !== null) body.max_tokens = max_tokens;
  if (seed !== null) body.seed = seed;
  if (stop.length) body.stop = stop;
  return body;
}

function messages(system, past, asked) {
  const said = past.flatMap(([user, assistant]) => [{ role: "user", content: user }, { role: "assistant", content: assistant }]);
  return [...(system ? [{ role: "system", content: system }] : []), ...said, { role: "user", content: asked }];
}

function dialogue(system, past, asked) {
  const turns = past.map(([user, assistant]) => `User: ${user}\nAssistant: ${assistant.trim()}\n`).join("");
  return `${system ? `${system}\n\n` : ""}${turns}User: ${asked}\nAssistant:`;
}
