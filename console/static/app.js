import { age, ask, call, choice, dash, field, h, makeHistory, query, Refused, rememberCsrf, say, table } from "/parts.js";

const INTERVAL = 2000;
const STEP = 100; // quarantine entries sent at a time
const main = document.getElementById("main");
let session = null;
const past = makeHistory();
let leave = () => {};

const VIEWS = {
  overview: ["Overview", overview], search: ["Search", search], quarantine: ["Quarantine", quarantine],
  deliveries: ["Deliveries", deliveries], endpoints: ["Endpoints", endpoints], audit: ["Record", audit],
};

// ---- figures and charts

const tenths = (value) => (value === null ? null : Math.round(value * 10) / 10);

function rate(one, before) {
  if (!before || one.events === null || before.events === null || one.at === before.at) return null;
  return Math.max(0, (one.events - before.events) * 1000 / (one.at - before.at));
}

const CHARTS = [
  ["Messages ready", ["correio.events", "correio.callbacks", "correio.dead"],
    (name) => (point) => point.queues[name] ?? null],
  ["Callbacks due for (s)", ["oldest"], () => (point) => point.oldest["correio.callbacks"] ?? null],
  ["Events stored per second", ["events/s"], () => (point, before) => rate(point, before)],
  ["Oldest message waiting (s)", ["correio.events", "correio.dead"],
    (name) => (point) => point.oldest[name] ?? null],
  ["Spool (events)", ["spool"], () => (point) => point.spool],
  ["Deliveries that want somebody", ["exhausted", "held", "retrying"],
    (name) => (point) => (point.deliveries ? point.deliveries[name] ?? 0 : null)],
];
// Lines differ by more than their colour, and the legend says so.
const DASHES = [[], [6, 3], [2, 3]];
const DASHED = ["", " (dashed)", " (dotted)"];

const DAY = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const time = (seconds, more) => new Date(seconds * 1000).toLocaleTimeString([], { ...DAY, ...more });
const times = (plot, seconds) => {
  const close = plot.scales.x.max - plot.scales.x.min < 600;
  return seconds.map((one) => time(one, close ? { second: "2-digit" } : {}));
};
const shown = (_, value) => (value === null || value === undefined ? "–" : String(tenths(value)));

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function charts() {
  const made = CHARTS.map(([title, series, read]) => {
    const box = h("div", { class: "chart" }, h("h3", {}, title));
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 } };
    const plot = new uPlot({
      width: 320, height: 170, axes: [{ ...axis, values: times, space: 70 }, axis],
      scales: { y: { range: (_, low, high) => [0, Math.max(1, high)] } },
      series: [{ label: "at", value: (_, at) => (at ? time(at, { second: "2-digit" }) : "–") },
        ...series.map((label, i) => ({
          label: label + DASHED[i], value: shown, width: 2, dash: DASHES[i],
          stroke: colour(["--blue", "--amber", "--red"][i]),
        }))],
    }, [[], ...series.map(() => [])], box);
    const readers = series.map(read);
    return { box, plot, draw() {
      if (box.clientWidth > 40) plot.setSize({ width: box.clientWidth - 16, height: 170 });
      const points = past.points;
      plot.setData([points.map((one) => one.at / 1000),
        ...readers.map((value) => points.map((one, i) => value(one, points[i - 1])))]);
      if (points.length && (plot.cursor.left ?? -1) < 0) plot.setLegend({ idx: points.length - 1 });
    } };
  });
  return {
    node: h("div", { class: "charts" }, made.map((one) => one.box)),
    draw() { for (const one of made) one.draw(); },
    end() { for (const one of made) one.plot.destroy(); },
  };
}

function stuckList(found) {
  if (!found.length) return h("p", { class: "good" }, "Nothing is stuck.");
  return h("ul", { class: "stuck" }, found.map((one) => h("li", { class: one.severity },
    h("p", {}, h("span", { class: "word" }, `${one.severity}: `), one.what, " ",
      one.since ? h("span", {}, `Seen for ${age(Date.now() - one.since)}.`) : null),
    h("p", {}, h("code", {}, one.command),
      one.view ? [" or ", h("a", { href: `#${one.view}` }, `see ${one.view}`)] : null))));
}

function figures(status) {
  const counts = (title, from) => h("section", {}, h("h2", {}, title),
    from ? table(title, ["", "count"], Object.entries(from)) : h("p", { class: "bad" }, "Cannot be read."));
  return [
    h("h2", {}, "Queues"),
    table("Queues", ["queue", "ready", "unacknowledged", "consumers", "oldest (s)"],
      status.queues.map((q) => [q.name, q.ready, q.unacknowledged, q.consumers, tenths(q.oldestAgeSeconds)])),
    h("div", { class: "charts" }, counts("Events", status.events), counts("Quarantine", status.quarantine),
      counts("Deliveries", status.deliveries), counts("Spool", status.spool && { events: status.spool.events,
        bytes: status.spool.bytes, "oldest (s)": tenths(status.spool.oldestAgeSeconds) })),
  ];
}

async function overview() {
  const stuck = h("div", { id: "stuck" });
  const numbers = h("div", { id: "figures" });
  const drawn = charts();
  main.replaceChildren(h("h2", {}, "What is stuck"), stuck, h("h2", {}, "The last hours"), drawn.node, numbers);
  past.set((await call("history")).points);
  const look = async () => {
    const now = await call("overview");
    if (!now.status) return;
    past.add(now.point);
    stuck.replaceChildren(stuckList(now.stuck));
    if (!numbers.contains(document.activeElement)) numbers.replaceChildren(...figures(now.status));
    drawn.draw();
  };
  await look();
  const timer = setInterval(() => { if (!document.hidden) attempt(look); }, INTERVAL);
  leave = () => { clearInterval(timer); drawn.end(); };
}

// ---- search

async function search(rest) {
  const result = h("div", { id: "result" });
  const form = h("form", { onsubmit: (event) => {
    event.preventDefault();
    location.hash = `search/${encodeURIComponent(new FormData(form).get("id").trim())}`;
  } }, field("id", "eventId, linkId, consentId or requestId", { value: rest, size: 40, required: true }),
  h("button", { class: "main" }, "Find"));
  main.replaceChildren(h("h2", {}, "Search"), form, result);
  if (!rest) { form.elements.id.focus(); return; }
  let found;
  try {
    found = await call(`trace?id=${encodeURIComponent(rest)}`);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 404) throw error;
    result.replaceChildren(h("p", {}, `Nothing is stored about ${rest}.`));
    return;
  }
  result.replaceChildren(h("h2", {}, "Time line"), h("ol", { class: "line" }, timeline(found).map(
    ([at, what]) => h("li", {}, h("time", { datetime: at }, at), what))));
}

function timeline(found) {
  const lines = [];
  for (const one of found.events) {
    const again = one.duplicates ? `, repeated ${one.duplicates} times` : "";
    const why = one.quarantine ? ` (${one.quarantine.reason}, now ${one.quarantine.status})` : "";
    lines.push([one.receivedAt, 0, `received ${one.eventName ?? "something"} ${one.eventId} from ${one.source}: ${one.label}${why}${again}`]);
  }
  for (const one of found.transitions) {
    lines.push([one.at, 1, `${one.aggregate} ${one.id} is at version ${one.version}: ${one.type}, ${dash(one.from)} → ${one.to}`]);
  }
  for (const one of found.deliveries) {
    for (const a of one.attempts) {
      const how = a.status ? `${a.outcome} ${a.status}` : `${a.outcome} ${a.error ?? ""}`;
      lines.push([a.at, 2, `attempt ${a.number} of ${one.type} to ${one.endpoint}: ${how}, ${a.durationSeconds} s`]);
    }
    if (one.nextAttemptAt) lines.push([one.nextAttemptAt, 3, `next attempt of ${one.type} to ${one.endpoint}`]);
    else if (!one.attempts.length) lines.push(["", 3, `${one.type} to ${one.endpoint} is ${one.state}, without an attempt`]);
  }
  return lines.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1])).map(([at, , what]) => [at, what]);
}

// ---- lists with actions

async function change(path, body, { title, verb, noun }) {
  const { count } = await call(path, { ...body, dryRun: true });
  if (!count) { say(`No ${noun} to do this with.`); return null; }
  if (!await ask(title, `${count} ${noun} are meant.`, verb)) return null;
  const done = await call(path, { ...body, dryRun: false });
  say(`${verb}: ${done.count} ${noun}.`);
  return done;
}

const button = (text, work, { reads = false } = {}) => h("button", { type: "button",
  disabled: session.readOnly && !reads, onclick: (event) => attempt(async () => {
    event.target.disabled = true;
    try { await work(); } finally { event.target.disabled = false; }
  }) }, text);

// What a list is cut from; said to screen readers, too, whenever it changes.
const tally = () => h("p", { id: "tally", "aria-live": "polite" });

function cut(shown, { count, more }, noun) {
  if (shown === count && !more) return `${count} ${noun}.`;
  return `The newest ${shown} of ${more ? "more than " : ""}${count} ${noun}; narrow the filter to see others.`;
}

async function showBody(id) {
  const entry = await call(`quarantine/${id}`);
  const text = h("pre", { tabindex: "0", role: "region", "aria-label": "Body" }, entry.body);
  const failed = h("p", { class: "bad", role: "alert" });
  const unmask = h("button", { type: "button", onclick: async () => {
    try {
      text.textContent = (await call(`quarantine/${id}?unmask=1`)).body;
      text.focus();
      unmask.remove();
    } catch (error) { failed.textContent = error instanceof Refused ? error.message : "The console does not answer."; }
  } }, "Show what is masked (this is recorded)");
  await ask(`Entry ${id}`, [text, failed, session.mayUnmask ? unmask : null], "Close", null);
}

async function quarantine() {
  const list = h("div");
  const found = tally();
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); attempt(show); } },
    field("reason", "reason"),
    choice("status", "status", [["open", "open"], ["replayed", "replayed"], ["discarded", "discarded"], ["", "any"]], "open"),
    h("button", { class: "main" }, "Show"));
  const progress = h("div", { id: "progress", "aria-live": "polite" });
  let stopped = false;
  leave = () => { stopped = true; };
  const discard = (body, title) => async () => {
    if (await change("quarantine/discard", body, { title, verb: "Discard", noun: "entries" })) await show();
  };
  const replay = (body, title) => async () => {
    const { count, ids } = await call("quarantine/replay", { ...body, dryRun: true });
    if (!count) { say("No entries to do this with."); return; }
    if (!await ask(title, `${count} entries are meant.`, "Replay")) return;
    stopped = false;
    let done = 0;
    while (done < count && !stopped) {
      progress.replaceChildren(
        h("label", {}, `Replay: ${done} of ${count} sent`, h("progress", { max: count, value: done })),
        button("Stop this replay", async () => { stopped = true; }));
      await call("quarantine/replay", { ids: ids.slice(done, done + STEP), dryRun: false });
      done = Math.min(count, done + STEP);
    }
    progress.replaceChildren();
    say(stopped && done < count ? `Stopped: ${done} of ${count} entries were replayed.` : `Replay: ${count} entries.`);
    await show();
  };
  async function show() {
    const { entries, ...all } = await call(`quarantine?status=${form.elements.status.value}&reason=${encodeURIComponent(form.elements.reason.value)}`);
    found.textContent = cut(entries.length, all, "entries");
    const reasons = [...new Set(entries.filter((one) => one.status === "open").map((one) => one.reason))];
    list.replaceChildren(
      h("div", { class: "buttons" }, reasons.map((reason) => [
        button(`Replay all ${reason}`, replay({ reason }, `Replay ${reason}`)),
        button(`Discard all ${reason}`, discard({ reason }, `Discard ${reason} for good`))])),
      table("Quarantine", ["received", "reason", "detail", "source", "seen", "status", ""], entries.map((one) => [
        one.receivedAt, one.reason, one.detail, one.source, one.seen, one.status,
        [button("Body", () => showBody(one.id), { reads: true }), " ", one.status === "open" ? button("Replay", replay({ ids: [one.id] }, "Replay this entry")) : null]])));
  }
  main.replaceChildren(h("h2", {}, "Quarantine"), form, progress, found, list);
  await show();
}

async function deliveries(rest) {
  const list = h("div");
  const tallied = tally();
  const progress = h("div", { id: "progress", "aria-live": "polite" });
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); attempt(show); } },
    choice("state", "state", [["", "any"], ...["exhausted", "held", "retrying", "pending", "delivered", "cancelled"].map((s) => [s, s])], "exhausted"),
    field("endpoint", "endpoint", { value: rest }), field("type", "type"), field("aggregate", "link, consent or request"),
    field("error", "outcome or error"), h("button", { class: "main" }, "Show"));
  const meant = () => Object.fromEntries(["endpoint", "type", "aggregate", "error"].map((n) => [n, form.elements[n].value]));
  let timer = 0;
  leave = () => clearTimeout(timer);
  async function follow(replay) {
    const { states, total, waiting } = await call(`replays/${replay}`);
    progress.replaceChildren(
      h("label", {}, `Replay: ${total - waiting} of ${total} ended`, h("progress", { max: total || 1, value: total - waiting })),
      h("p", {}, Object.entries(states).map(([state, n]) => `${state} ${n}`).join(", ")),
      waiting ? button("Stop this replay", async () => {
        const { count } = await call("deliveries/cancel", { replay, dryRun: false });
        say(`Stopped: ${count} deliveries are as before.`);
      }) : "");
    if (waiting && progress.isConnected) timer = setTimeout(() => attempt(() => follow(replay)), INTERVAL);
    else if (progress.isConnected) await show();
  }
  async function replay(body) {
    const done = await change("deliveries/replay", body, { title: "Replay deliveries", verb: "Replay", noun: "deliveries" });
    if (done) { await show(); await follow(done.replay); }
  }
  async function show() {
    const found = await call(`deliveries?${query(form)}`);
    tallied.textContent = cut(found.deliveries.length, found, "deliveries");
    list.replaceChildren(
      h("div", { class: "buttons" },
        button("Replay the exhausted of this filter", () => replay(meant())),
        button("Cancel what waits of this filter", async () => {
          if (await change("deliveries/cancel", { ...meant(), state: form.elements.state.value }, { title: "Cancel deliveries", verb: "Cancel them", noun: "deliveries" })) await show();
        })),
      table("Deliveries", ["created", "endpoint", "type", "about", "version", "state", "attempts", "last outcome", ""],
        found.deliveries.map((one) => [one.createdAt, one.endpoint, one.type,
          h("a", { href: `#search/${encodeURIComponent(one.aggregateId)}` }, one.aggregateId),
          one.version, one.state, one.attempts, [dash(one.lastOutcome), " ", one.lastError ?? ""],
          one.state === "exhausted" ? button("Replay", () => replay({ ids: [one.id] })) : ""])));
  }
  main.replaceChildren(h("h2", {}, "Deliveries"), form, progress, tallied, list);
  await show();
}

async function endpoints() {
  const list = h("div");
  async function show() {
    const found = (await call("endpoints")).endpoints;
    list.replaceChildren(table("Endpoints", ["endpoint", "status", "since", "reason", "types", "deliveries", ""],
      found.map((one) => [one.id, one.status, one.changedAt, one.reason, one.types.join(", "),
        Object.entries(one.deliveries).map(([state, n]) => `${state} ${n}`).join(", "),
        one.status === "removed" ? "" : h("div", { class: "buttons" },
          one.status === "enabled"
            ? button("Pause", async () => {
              if (!await ask(`Pause ${one.id}`, "Its deliveries are held until it is resumed.", "Pause")) return;
              await call(`endpoints/${one.id}/pause`, {});
              say(`${one.id} is paused.`);
              await show();
            })
            : button("Resume", async () => {
              await call(`endpoints/${one.id}/resume`, {});
              say(`${one.id} gets its deliveries again.`);
              await show();
            }),
          button("Test", async () => {
            const probe = await call(`endpoints/${one.id}/test`, {});
            say(`${one.id}: ${probe.outcome}: ${probe.error || `answered ${probe.status}`} after ${probe.durationSeconds} s`);
          }))])));
  }
  main.replaceChildren(h("h2", {}, "Endpoints"), list);
  await show();
}

async function audit() {
  const { notes, more } = await call("audit");
  main.replaceChildren(h("h2", {}, "Record of who did what"),
    more ? h("p", {}, `The newest ${notes.length} entries; there are older ones.`) : "", table("Record", ["at", "who", "what", "to what", "detail"],
    notes.map((one) => [one.at, one.actor, one.action, one.target, one.detail])));
}

// ---- the frame

async function attempt(work) {
  const offline = document.getElementById("offline");
  try {
    await work();
    offline.hidden = true;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) { await login(); return; }
    offline.textContent = error instanceof Refused ? error.message : "The console does not answer.";
    offline.hidden = false;
  }
}

async function show() {
  leave();
  leave = () => {};
  const [name, ...rest] = location.hash.slice(1).split("/");
  const [title, view] = VIEWS[name] ?? VIEWS.overview;
  document.title = `${title} – Correio`;
  document.getElementById("nav").replaceChildren(...Object.entries(VIEWS).map(([key, [text]]) =>
    h("a", { href: `#${key}`, "aria-current": text === title ? "page" : null }, text)));
  say("");
  await attempt(() => view(decodeURIComponent(rest.join("/"))));
}

async function login() {
  leave();
  leave = () => {};
  document.getElementById("nav").replaceChildren();
  document.getElementById("who").replaceChildren();
  const said = h("p", { class: "bad", role: "alert" });
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      await call("login", { token: form.elements.token.value });
      await start();
    } catch (error) { said.textContent = error.message; }
  } }, field("token", "Token", { type: "password", required: true, size: 40 }), h("button", { class: "main" }, "Log in"));
  main.replaceChildren(h("h2", {}, "Log in"), form, said);
  form.elements.token.focus();
}

async function start() {
  await attempt(async () => {
    session = await call("session");
    rememberCsrf(session.csrf);
    document.getElementById("who").replaceChildren(session.operator, session.readOnly ? " (may look only) " : " ",
      session.loginRequired ? h("button", { type: "button", onclick: async () => { await call("logout", {}); await login(); } }, "Log out") : "");
    await show();
  });
}

addEventListener("hashchange", show);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    location.hash = "search";
  }
});
start();
