// The conversation: who answers, turns on the screen, the keyboard. Requests are made in prompts.js and sent in api.js.

import { Failure, key, models as askModels, stream } from "./api.js";
import { element, show, showPlain, showWhole } from "./markdown.js";
import { request } from "./prompts.js";
import * as settings from "./settings.js";

const by = (id) => document.getElementById(id);
const [log, input, send, status] = ["log", "input", "send", "status"].map(by);

let models = []; // [{name, route, chat, context, error}], from the server
let chosen = []; // places in `models` of those who answer
let turns = []; // [{text, answers, node, grid}]; an answer: {text, state, note, abort, node, body, foot}
const running = new Set(); // answers that are being written

const say = (text) => { status.textContent = text; };

// ---------------------------------------------------------------- start

async function begin() {
  try {
    models = await askModels();
  } catch (error) {
    if (error.status === 401) return askKey(key.get() ? "That key was not accepted. Check it and try again." : "");
    return greetFailure(error);
  }
  by("forget").hidden = !key.get();
  chosen = models.map((_, i) => i).filter((i) => !models[i].error);
  settings.offerRaw(models.some((model) => !model.chat && !model.error));
  offerChoice();
  greet();
  if (!by("key-dialog").open) input.focus();
}

function askKey(problem) {
  by("key-error").textContent = problem;
  by("key").value = "";
  if (!by("key-dialog").open) by("key-dialog").showModal();
  by("key").focus();
}

function greetLocked() {
  const enter = element("button", { type: "button", onclick: () => askKey("") }, "Enter the key");
  by("greeting").replaceChildren("This server needs a key. ", enter);
  enter.focus();
}

function useKey(event) {
  event.preventDefault();
  const given = by("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) return askKey("A key has only letters, digits and signs, without spaces.");
  key.set(given);
  by("key-dialog").close();
  begin();
}

function greetFailure(error) {
  const again = element("button", { type: "button", onclick: begin }, "Try again");
  by("greeting").replaceChildren(element("span", { className: "error" }, error.message), " ", again);
}

function greet() {
  const names = chosen.map((i) => models[i].name);
  document.title = by("title").textContent = names.join(" and ") || "Chat";
  by("greeting").textContent = names.length > 1 ? "One prompt, two answers." : "What would you like to ask?";
  by("cards").replaceChildren(...models.map(card));
}

function card(model, i) {
  const room = model.context ? `${model.context.toLocaleString("en")} tokens of context` : "";
  const raw = "No chat template: it is no chat model. It continues your text; Settings has another way.";
  return element("li", { className: `card m${i}` }, element("strong", {}, model.name),
    ...(model.error ? [element("span", { className: "error" }, model.error)] : [element("span", {}, room)]),
    ...(model.chat || model.error ? [] : [element("span", { className: "note" }, raw)]));
}

// With two models: one, the other, or both.
function offerChoice() {
  const all = chosen.length > 1 ? [...chosen.map((i) => [i]), chosen] : [];
  by("who").hidden = !all.length;
  by("title").classList.toggle("unseen", all.length > 0); // the choice shows the names already
  by("who").replaceChildren(by("who").firstElementChild, ...all.map((group, n) => {
    const choose = () => { chosen = group; greet(); };
    const radio = element("input", { type: "radio", name: "who", id: `who-${n}`, checked: n === 2, onchange: choose });
    const name = group.length > 1 ? "Both" : models[group[0]].name;
    return element("label", { htmlFor: radio.id }, radio, element("span", {}, name));
  }));
}

// ---------------------------------------------------------------- turns

function sendMessage() {
  const text = input.value;
  if (!text.trim() || running.size || !chosen.length) return;
  const asked = settings.read();
  if (!asked) return;
  if (settings.covers()) settings.open(false);
  input.value = "";
  grow(input);
  const turn = { text, answers: [] };
  turns.push(turn);
  drawTurn(turn);
  by("turns").append(turn.node);
  by("welcome").hidden = true;
  log.scrollTop = log.scrollHeight;
  answerAll(turn, chosen, asked);
}

function drawTurn(turn) {
  turn.grid = element("div", { className: "answers" });
  turn.said = element("div", { className: "said" });
  turn.node = element("article", { className: "turn" }, turn.said, turn.grid);
  drawSaid(turn);
}

function drawSaid(turn) {
  const edit = element("button", { type: "button", className: "quiet last-only", onclick: () => editTurn(turn) }, "Edit");
  turn.said.replaceChildren(element("h2", { className: "unseen" }, "You"), element("p", { className: "bubble" }, turn.text), edit);
}

function answerAll(turn, who, asked) {
  turn.grid.replaceChildren();
  turn.answers = [];
  for (const i of who) {
    turn.answers[i] = drawAnswer(turn, i);
    turn.grid.append(turn.answers[i].node);
  }
  turn.grid.classList.toggle("two", who.length > 1);
  for (const i of who) write(turn, i, asked);
}

function drawAnswer(turn, i) {
  const answer = { text: "", state: "waiting", body: element("div", { className: "text" }),
    problem: element("p", { className: "error", role: "alert", hidden: true }), foot: element("span", { className: "foot" }) };
  const copy = element("button", { type: "button", className: "quiet", onclick: () => copyText(answer.text, copy) }, "Copy");
  const again = element("button", { type: "button", className: "quiet last-only", onclick: () => regenerate(turn, i) },
    "Regenerate");
  const tools = element("div", { className: "tools" }, copy, again, answer.foot);
  const name = element("h3", {}, models[i].name, ...(models[i].chat ? [] : [element("small", {}, "continues the text")]));
  answer.node = element("section", { className: `answer m${i}` }, name, answer.body, answer.problem, tools);
  return answer;
}

function regenerate(turn, i) {
  const asked = settings.read();
  if (running.size || !asked) return;
  const fresh = drawAnswer(turn, i);
  turn.answers[i].node.replaceWith(fresh.node);
  turn.answers[i] = fresh;
  write(turn, i, asked);
  input.focus();
}

// Asks one model for its answer and shows it as it comes.
async function write(turn, i, asked) {
  const answer = turn.answers[i];
  answer.abort = new AbortController();
  answer.start = performance.now();
  running.add(answer);
  busy();
  setState(answer, "writing");
  const { path, body } = request(models, i, turns.slice(0, turns.indexOf(turn) + 1), asked);
  try {
    const end = await stream(path, body, answer.abort.signal, (text) => { answer.text += text; draw(answer); });
    finish(answer, "done", endNote(answer, end));
  } catch (error) {
    if (error.name === "AbortError") finish(answer, "stopped", "stopped");
    else finish(answer, "failed", "", error);
  }
}

function endNote(answer, { finish: reason, usage }) {
  const seconds = (performance.now() - answer.start) / 1000;
  const count = usage?.completion_tokens;
  const parts = count === undefined ? [] : [`${count} token${count === 1 ? "" : "s"}`, `${(count / seconds).toFixed(1)} a second`];
  if (reason === "length") parts.push("cut off: no more tokens were allowed or fit");
  if (reason === "stop" && !answer.text) parts.push("an empty answer");
  return parts.join(" · ");
}

function finish(answer, state, note, error) {
  running.delete(answer);
  setState(answer, state);
  answer.foot.textContent = note;
  draw(answer, true);
  if (error) {
    const message = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
    answer.problem.hidden = false;
    answer.problem.textContent = message;
    if (error.status === 401) askKey("The server does not accept this key any more.");
  }
  busy();
  if (!running.size) say({ done: "The answer is complete.", stopped: "Stopped.", failed: "The answer failed." }[state]);
}

function setState(answer, state) {
  answer.state = state;
  answer.node.dataset.state = state;
}

// At most one drawing a frame, however fast the pieces come.
function draw(answer, whole = false) {
  if (whole) {
    cancelAnimationFrame(answer.frame);
    return paint(answer, true);
  }
  answer.frame ??= requestAnimationFrame(() => paint(answer, false));
}

function paint(answer, whole) {
  answer.frame = null;
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const draws = settings.showsMarkdown() ? (whole ? showWhole : show) : showPlain;
  draws(answer.body, answer.text);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function repaint() {
  for (const turn of turns) for (const answer of turn.answers) if (answer) paint(answer, true);
}

function busy() {
  const yes = running.size > 0;
  log.setAttribute("aria-busy", String(yes)); // a screen reader reads the answer when it is whole
  document.body.classList.toggle("busy", yes);
  send.textContent = yes ? "Stop" : "Send";
  if (yes) say("Answering…");
}

function stop() {
  for (const answer of running) answer.abort.abort();
}

function clear() {
  stop();
  turns = [];
  by("turns").replaceChildren();
  by("welcome").hidden = false;
  say("A new conversation.");
  input.focus();
}

// ---------------------------------------------------------------- editing and copying

function editTurn(turn) {
  if (running.size || turn !== turns.at(-1)) return;
  const box = element("textarea", { className: "bubble", value: turn.text, ariaLabel: "Edit your message" });
  const cancel = () => { drawSaid(turn); input.focus(); };
  const save = () => {
    const asked = settings.read();
    if (!box.value.trim() || !asked) return;
    turn.text = box.value;
    cancel();
    answerAll(turn, chosen, asked);
  };
  box.addEventListener("input", () => grow(box));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); cancel(); }
    if (sends(event)) { event.preventDefault(); save(); }
  });
  const button = (name, className, onclick) => element("button", { type: "button", className, onclick }, name);
  turn.said.replaceChildren(box, element("div", { className: "bar" }, button("Cancel", "quiet", cancel),
    button("Save and send", "main", save)));
  grow(box);
  box.focus();
}

async function copyText(text, button) {
  const label = button.textContent;
  const done = await copied(text);
  button.textContent = done ? "Copied" : "Not allowed";
  say(done ? "Copied." : "The browser does not allow copying here.");
  setTimeout(() => { button.textContent = label; }, 1500);
}

// Outside https and localhost there is no clipboard object; the old command works there.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = element("textarea", { className: "unseen", value: text });
    const focused = document.activeElement;
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    focused?.focus();
    return done;
  }
}

// ---------------------------------------------------------------- keyboard

const sends = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;

function grow(box) {
  box.rows = Math.min(10, Math.max(1, box.value.split("\n").length));
}

function typed(event) {
  if (sends(event)) {
    event.preventDefault();
    sendMessage();
  } else if (event.key === "ArrowUp" && !input.value && turns.length) {
    event.preventDefault();
    editTurn(turns.at(-1));
  }
}

function escape(event) {
  if (event.key !== "Escape" || by("key-dialog").open) return;
  if (running.size) stop();
  else if (settings.covers()) settings.open(false);
}

function wire() {
  settings.start(repaint);
  if (matchMedia("(min-width: 68rem)").matches) settings.open(true);
  input.addEventListener("keydown", typed);
  input.addEventListener("input", () => grow(input));
  document.addEventListener("keydown", escape);
  by("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running.size) stop();
    else sendMessage();
    input.focus();
  });
  by("clear").addEventListener("click", clear);
  by("key-form").addEventListener("submit", useKey);
  by("key-dialog").addEventListener("close", () => { if (!models.length) greetLocked(); });
  by("forget").addEventListener("click", () => { key.set(""); location.reload(); });
  log.addEventListener("click", (event) => {
    const button = event.target.closest?.(".copy-code");
    if (button) copyText(button.closest(".code").querySelector("pre").textContent, button);
  });
}

wire();
begin();
