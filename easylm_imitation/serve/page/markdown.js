// Markdown as DOM nodes. marked's lexer reads it; nothing of a model's text ever becomes HTML: every piece lands in
// textContent, HTML in the text is shown as it was written, links go to http(s) only, and images are links.

import { lexer } from "./marked.js";

const DEEPEST = 40; // lists in lists in lists: beyond this the source is shown

// Shows `text` in `node`. While it grows, blocks that did not change stay as they are (a selection in them too).
export function show(node, text) {
  const blocks = lexed(text);
  const before = node.blocks ?? [];
  let same = 0;
  while (same < before.length && same < blocks.length && before[same] === blocks[same].raw) same += 1;
  while (node.childNodes.length > same) node.lastChild.remove();
  for (const block of blocks.slice(same)) node.append(rendered(block, 0));
  node.blocks = blocks.map((block) => block.raw);
}

// The same, from the start: a definition at the end may have given a link above its target.
export function showWhole(node, text) {
  node.blocks = [];
  show(node, text);
}

export function showPlain(node, text) {
  node.blocks = [];
  node.replaceChildren(element("div", { className: "plain" }, text));
}

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function lexed(text) {
  try {
    return lexer(text).filter((block) => block.type !== "space" && block.type !== "def");
  } catch {
    return [{ type: "unreadable", raw: text }];
  }
}

const INLINE = { strong: "strong", em: "em", del: "del" };

// One node for a token of marked's.
function rendered(token, depth) {
  const inside = (name) => element(name, {}, ...all(token.tokens, depth));
  if (depth > DEEPEST) return new Text(token.raw);
  switch (token.type) {
    case "heading": return inside(`h${Math.min(6, token.depth + 2)}`);
    case "paragraph": return inside("p");
    case "blockquote": return inside("blockquote");
    case "list": return list(token, depth);
    case "table": return table(token, depth);
    case "code": return code(token);
    case "hr": return element("hr");
    case "br": return element("br");
    case "strong": case "em": case "del": return inside(INLINE[token.type]);
    case "codespan": return element("code", {}, token.text);
    case "checkbox": return new Text(token.checked ? "☑ " : "☐ ");
    case "escape": return new Text(token.text);
    case "text": return token.tokens ? inside("span") : new Text(token.escaped ? token.text : unescaped(token.text));
    case "link": return link(token, () => all(token.tokens, depth));
    case "image": return link(token, () => [new Text(`image: ${token.text || token.href}`)]);
    case "html": return token.block ? element("p", { className: "plain" }, token.raw.trimEnd()) : new Text(token.raw);
    default: return new Text(token.raw);
  }
}

function all(tokens, depth) {
  return (tokens ?? []).filter((token) => token.type !== "space" && token.type !== "def")
    .map((token) => rendered(token, depth + 1));
}

function list(token, depth) {
  const items = token.items.map((item) => element("li", {}, ...all(item.tokens, depth + 1)));
  return token.ordered ? element("ol", { start: token.start === "" ? 1 : Number(token.start) }, ...items) : element("ul", {}, ...items);
}

function table(token, depth) {
  const row = (cells, name) => element("tr", {}, ...cells.map((cell, i) => {
    const node = element(name, {}, ...all(cell.tokens, depth));
    if (token.align[i]) node.className = `to-${token.align[i]}`;
    return node;
  }));
  const rows = token.rows.map((cells) => row(cells, "td"));
  const made = element("table", {}, element("thead", {}, row(token.header, "th")), element("tbody", {}, ...rows));
  return element("div", { className: "scroll", tabIndex: 0 }, made);
}

function code(token) {
  const language = (token.lang ?? "").split(/\s/)[0].slice(0, 30);
  const copy = element("button", { type: "button", className: "copy-code" }, "Copy");
  const bar = element("div", { className: "code-bar" }, element("span", {}, language), copy);
  return element("div", { className: "code" }, bar, element("pre", { tabIndex: 0 }, element("code", {}, token.text)));
}

function link(token, label) {
  const url = URL.canParse(token.href) ? new URL(token.href) : null;
  if (!url || !["http:", "https:"].includes(url.protocol)) return new Text(token.raw);
  return element("a", { href: url.href, rel: "noopener noreferrer nofollow", target: "_blank" }, ...label());
}

const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

// Character references, which markdown allows in text; the result is text again.
function unescaped(text) {
  return text.replace(/&(?:(amp|lt|gt|quot|apos|nbsp)|#(\d{1,7})|#x([0-9a-f]{1,6}));/gi, (whole, name, decimal, hex) => {
    if (name) return NAMED[name.toLowerCase()];
    const point = decimal ? Number(decimal) : Number.parseInt(hex, 16);
    return point > 0 && point <= 0x10ffff ? String.fromCodePoint(point) : whole;
  });
}
