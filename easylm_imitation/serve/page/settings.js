// The settings panel: what is asked of the models besides the messages. Kept for this tab in sessionStorage.

const SLOT = "easylm_imitation.settings";
const form = document.getElementById("options");
const panel = document.getElementById("settings");
const button = document.getElementById("settings-button");
const RAW_HELP = {
  alone: "Each message is continued on its own, the system prompt before it.",
  transcript: "The conversation is written out as a dialogue, and the model continues it.",
};
const WIDE = matchMedia("(min-width: 68rem)");

export const isOpen = () => !panel.hidden;

export function open(yes) {
  panel.hidden = !yes;
  button.setAttribute("aria-expanded", String(yes));
  if (yes && !WIDE.matches) form.elements.system.focus();
  if (!yes && panel.contains(document.activeElement)) button.focus();
}

// Whether the panel covers the conversation, as on a phone.
export const covers = () => isOpen() && !WIDE.matches;

// The settings, or null when a field holds nonsense: then the browser says which.
export function read() {
  if (!form.checkValidity()) {
    open(true);
    form.reportValidity();
    return null;
  }
  const fields = form.elements;
  const number = (field) => (field.value === "" ? null : field.valueAsNumber);
  return {
    system: fields.system.value.trim(), temperature: number(fields.temperature), top_p: number(fields.top_p),
    max_tokens: number(fields.max_tokens), seed: number(fields.seed), raw: fields.raw.value,
    stop: fields.stop.value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n")),
    markdown: fields.markdown.checked,
  };
}

export const showsMarkdown = () => form.elements.markdown.checked;

// Shows the choices for models without a template.
export function offerRaw(yes) {
  document.getElementById("raw-options").hidden = !yes;
}

export function start(onMarkdown) {
  restore();
  tell();
  form.addEventListener("input", () => { keep(); tell(); });
  form.addEventListener("reset", () => setTimeout(() => { keep(); tell(); onMarkdown(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.markdown.addEventListener("change", onMarkdown);
  button.addEventListener("click", () => open(!isOpen()));
  document.getElementById("close-settings").addEventListener("click", () => open(false));
}

function tell() {
  for (const name of ["temperature", "top_p"]) {
    document.getElementById(`${name}-value`).textContent = form.elements[name].valueAsNumber.toFixed(2);
  }
  document.getElementById("raw-help").textContent = RAW_HELP[form.elements.raw.value];
}

const fields = () => [...form.elements].filter((field) => field.name);
const get = (field) => (field.type === "checkbox" ? field.checked : field.value);

function keep() {
  sessionStorage.setItem(SLOT, JSON.stringify(Object.fromEntries(fields().map((field) => [field.name, get(field)]))));
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(SLOT) ?? "{}");
  for (const field of fields()) {
    if (field.name in kept) field[field.type === "checkbox" ? "checked" : "value"] = kept[field.name];
  }
}
