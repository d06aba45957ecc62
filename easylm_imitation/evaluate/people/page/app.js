// One rater's way through a study. The server knows what was said and what comes next; this page holds one pair, by
// its number, and what was chosen of it. Sending the same twice changes nothing, so whatever fails is sent again.

import { element, showPlain, showWhole } from "./markdown.js";

const by = (id) => document.getElementById(id);
const [form, notice, next, previous] = ["form", "notice", "next", "previous"].map(by);
const AGAIN = 2000; // milliseconds until a request that failed is tried again
const LOST = "The server does not answer. What you chose is still here and will be sent as soon as it does.";
const OK_KEYS = [["q", "w"], ["o", "p"]]; // acceptable, not acceptable: of A, of B
let token = "";
let study = null; // {title, instructions, question, choices, acceptable, markdown}
let shown = null; // {number, total, turns, said}
let busy = false;

class Refused extends Error {}

const wait = (time) => new Promise((done) => { setTimeout(done, time); });

function warn(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

// A call that ends only with an answer: while there is none, it says so and tries again.
async function call(path, body) {
  for (;;) {
    try {
      const headers = { ...(token && { Authorization: `Bearer ${token}` }), ...(body && { "Content-Type": "application/json" }) };
      const sent = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) };
      const response = await fetch(path, { ...sent, credentials: "omit", cache: "no-store", redirect: "error" });
      const said = await response.json();
      if (response.status < 500) {
        warn("");
        if (!response.ok) throw new Refused(said.error);
        return said;
      }
    } catch (error) {
      if (error instanceof Refused) throw error;
    }
    warn(LOST);
    await wait(AGAIN);
  }
}

// One thing at a time: what is pressed while something is on its way is not heard.
async function alone(work) {
  if (busy) return;
  busy = true;
  settle();
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    form.hidden = true;
    warn(error.message);
  } finally {
    busy = false;
    settle();
  }
}

// ---------------------------------------------------------------- start

async function begin() {
  const asked = new URLSearchParams(location.search);
  token = location.hash.slice(1);
  if (!token && asked.get("study") && !(await join(asked))) return;
  if (!token) return warn("This page needs the link that you were sent.");
  study = await call("api/study");
  document.title = by("title").textContent = study.title;
  by("instructions").textContent = study.instructions;
  by("question").textContent = study.question;
  const old = history.state?.number;
  return old ? show(await call(`api/items/${old}`)) : advance(true);
}

// A person of the crowd: the platform's own id, where it gives one, finds the same person again.
async function join(asked) {
  if (asked.get("assignmentId") === "ASSIGNMENT_ID_NOT_AVAILABLE") return warn("Accept the task first, then rate.");
  const key = asked.get("study");
  const worker = asked.get("PROLIFIC_PID") ?? asked.get("workerId") ?? asked.get("worker") ?? "";
  const slot = `study ${key}`;
  token = (!worker && localStorage.getItem(slot)) || (await call("api/join", { key, worker })).token;
  if (!worker) localStorage.setItem(slot, token);
  history.replaceState(null, "", `${location.pathname}#${token}`);
  return true;
}

// ---------------------------------------------------------------- a pair

async function advance(first) {
  const found = await call("api/next", {});
  take(found);
  history[first ? "replaceState" : "pushState"]({ number: found.finished ? 0 : found.number }, "");
}

const take = (found) => (found.finished ? thank(found) : show(found));

function show(found) {
  shown = found;
  by("thanks").hidden = true;
  by("turns").replaceChildren(...found.turns.map((turn, i) => drawTurn(turn, i === found.turns.length - 1)));
  by("choices").replaceChildren(...study.choices.map((label, i) => option("choice", i, label, String(i + 1), found.said?.choice === i)));
  by("about").open = found.number === 1;
  by("place").textContent = `${found.number} of ${found.total}`;
  Object.assign(by("progress"), { max: found.total, value: found.number - 1, hidden: false });
  const marks = study.acceptable ? ["Q", "W", "O", "P"] : [];
  by("keys").replaceChildren(...study.choices.flatMap((_, i) => [element("kbd", {}, String(i + 1)), " "]), "choose, ",
    ...marks.flatMap((key) => [element("kbd", {}, key), " "]), marks.length ? "say what is acceptable, " : "",
    element("kbd", {}, "Enter"), " next, ", element("kbd", {}, "←"), " previous");
  form.hidden = false;
  by("status").textContent = `Pair ${found.number} of ${found.total}`;
  scrollTo(0, 0);
  by("title").focus({ preventScroll: true });
  settle();
}

function drawTurn(turn, last) {
  const request = element("div", { className: "request" }, label("Request"), text(turn.question, false));
  const answers = turn.answers.map((answer, side) => element("section", { className: "answer" },
    label(`Answer ${"AB"[side]}`), text(answer, study.markdown), ...(last && study.acceptable ? [acceptable(side)] : [])));
  return element("div", {}, request, element("div", { className: "answers" }, ...answers));
}

const label = (name) => element("h2", { className: "label" }, name);

function text(content, markdown) {
  const node = element("div", { className: "text", dir: "auto" });
  if (!content) node.append(element("span", { className: "empty" }, "(nothing was written)"));
  else if (markdown) showWhole(node, content);
  else showPlain(node, content);
  for (const button of node.querySelectorAll(".copy-code")) button.remove();
  return node;
}

function acceptable(side) {
  const said = shown.said?.[["left_ok", "right_ok"][side]];
  const options = ["Yes", "No"].map((name, i) => option(`ok${side}`, i, name, OK_KEYS[side][i].toUpperCase(), said === !i));
  return element("fieldset", {}, element("legend", {}, study.acceptable), element("div", { className: "choices" }, ...options));
}

function option(name, value, text, key, checked) {
  const input = element("input", { type: "radio", name, value: String(value), checked });
  return element("label", {}, input, element("span", {}, text), element("kbd", {}, key));
}

// What is chosen, null while something is missing.
function chosen() {
  const given = Object.fromEntries(new FormData(form));
  const names = ["choice", ...(study.acceptable ? ["ok0", "ok1"] : [])];
  if (names.some((name) => !(name in given))) return null;
  const oks = study.acceptable ? { left_ok: given.ok0 === "0", right_ok: given.ok1 === "0" } : {};
  return { choice: Number(given.choice), ...oks };
}

function settle() {
  if (!shown) return;
  next.disabled = busy || !chosen();
  previous.disabled = busy || shown.number < 2;
}

function send(event) {
  event.preventDefault();
  const said = chosen();
  const { number, total } = shown;
  if (!said) return;
  alone(async () => {
    await call(`api/items/${number}`, said);
    const later = number < total ? await known(number + 1) : null;
    if (!later) return advance(false);
    show(later);
    history.pushState({ number: later.number }, "");
  });
}

// What was shown as `number` already, else null.
async function known(number) {
  if (shown.said === null) return null; // this was the newest
  try {
    return await call(`api/items/${number}`);
  } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}

function back() {
  const number = form.hidden ? shown?.number : shown.number - 1;
  if (number) alone(async () => {
    show(await call(`api/items/${number}`));
    history.pushState({ number }, "");
  });
}

function thank(found) {
  form.hidden = true;
  by("thanks").hidden = false;
  by("rated").textContent = found.rated ? `You rated ${found.rated} pairs.` : "There is nothing left to rate.";
  by("code").textContent = found.code;
  by("review").hidden = !found.rated;
  by("place").textContent = "Done";
  Object.assign(by("progress"), { max: 1, value: 1, hidden: false });
  shown = { number: found.rated, total: found.rated, turns: [], said: null };
  by("thanks-title").focus();
}

// ---------------------------------------------------------------- what a person does

function press(event) {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || form.hidden || busy) return;
  const key = event.key.toLowerCase();
  const [side, place] = OK_KEYS.map((keys) => keys.indexOf(key)).reduce((found, i, s) => (i < 0 ? found : [s, i]), [-1, -1]);
  if (/^[1-9]$/.test(key)) choose("choice", Number(key) - 1);
  else if (side >= 0) choose(`ok${side}`, place);
  else if (key === "enter" && !event.target.closest("button, a, summary")) {
    event.preventDefault();
    if (!next.disabled) form.requestSubmit();
  } else if (key === "arrowleft" && !event.target.matches("input")) back();
}

function choose(name, value) {
  const input = form.querySelector(`input[name=${name}][value="${value}"]`);
  if (input) input.checked = true;
  settle();
}

// The browser's own back and forward.
function wander(event) {
  const number = event.state?.number;
  if (number === undefined) return location.reload(); // another link was put into the address
  alone(async () => take(await (number ? call(`api/items/${number}`) : call("api/next", {}))));
}

form.addEventListener("submit", send);
form.addEventListener("change", settle);
previous.addEventListener("click", back);
by("review").addEventListener("click", back);
addEventListener("keydown", press);
addEventListener("popstate", wander);
alone(begin);
