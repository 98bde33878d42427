// Small parts that every view is made of. Text goes in as text, never as markup.

export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((one) => one !== null && one !== undefined).map(
    (one) => (one instanceof Node ? one : String(one))));
  return node;
}

export const dash = (value) => (value === null || value === undefined || value === "" ? "–" : value);

export function age(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${seconds} s`;
}

export function table(caption, columns, rows) {
  const numeric = (cell) => typeof cell === "number";
  const first = rows[0] ?? [];
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map((one, i) =>
        h("th", { scope: "col", class: numeric(first[i]) ? "number" : null }, one)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) =>
        h("td", { class: numeric(cell) ? "number" : null },
          cell instanceof Node || Array.isArray(cell) ? cell : dash(cell))))))),
    rows.length ? null : h("p", {}, "None."));
}

export function field(name, label, attributes = {}) {
  return h("label", {}, label, h("input", { name, autocomplete: "off", ...attributes }));
}

export function choice(name, label, options, chosen) {
  return h("label", {}, label, h("select", { name },
    options.map(([value, text]) => h("option", { value, selected: value === chosen }, text))));
}

export class Refused extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

let csrf = "";
export const rememberCsrf = (token) => { csrf = token; };

export async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
  };
  const answer = await fetch(`/api/${path}`, { ...options, signal: AbortSignal.timeout(20000) });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, said.detail ?? answer.statusText);
  return said;
}

export function query(form) {
  const values = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...values]) if (!value) values.delete(name);
  return values.toString();
}

export function say(text) { document.getElementById("said").textContent = text; }

// Ask before something is changed; resolves to true only for the button that does it.
export function ask(title, body, verb, instead = "Leave it") {
  const dialog = document.getElementById("ask");
  document.getElementById("ask-title").textContent = title;
  document.getElementById("ask-body").replaceChildren(h("div", {}, body));
  return new Promise((resolve) => {
    const end = (answer) => { dialog.close(); resolve(answer); };
    document.getElementById("ask-buttons").replaceChildren(
      h("button", { type: "button", class: "main", onclick: () => end(true) }, verb),
      instead ? h("button", { type: "button", onclick: () => end(false) }, instead) : "");
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
  });
}

// Points over time, at most MAX of them: when there are more, every second one goes, and from then
// on only every second one is taken in, so that their distance stays even and old ones last.
const MAX = 2000;

export function makeHistory() {
  let points = [];
  let every = 1;
  let seen = 0;
  return {
    get points() { return points; },
    set(known) { points = known.slice(-MAX); every = 1; seen = 0; },
    add(point) {
      if (!point || (points.length && points[points.length - 1].at >= point.at)) return;
      if (seen++ % every) return;
      points.push(point);
      if (points.length > MAX) { points = points.filter((_, i) => i % 2 === 0); every *= 2; }
    },
  };
}
