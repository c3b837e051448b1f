"use strict";
const html = document.documentElement;
const stale = document.getElementById("stale");
const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function span(s) {
  const i = units.findIndex(([n]) => s >= n);
  if (i < 0) return "0 s";
  const [n, unit] = units[i], [m, small] = units[i + 1] || [0, ""];
  const rest = m ? Math.floor(s % n / m) : 0;
  return Math.floor(s / n) + " " + unit + (rest ? " " + rest + " " + small : "");
}

// The server's clock counts: this machine's may be wrong.
const skew = () => Date.parse(html.dataset.at || "") - Number(html.dataset.read || 0);
function tick() {
  const now = Date.now() + skew();
  if (!now) return;
  for (const t of document.querySelectorAll("time")) {
    const at = Date.parse(t.dateTime), s = Math.round((at - now) / 1000);
    const rel = t.querySelector(".rel"), clock = t.querySelector(".clock");
    if (rel) rel.textContent = s > 0 ? "in " + span(s) : t.dataset.due && s > -120 ? "now" : span(-s) + " ago";
    if (clock && !clock.title) {
      clock.title = clock.textContent;
      clock.textContent = local(at, now);
    }
  }
  // One page, one clock: the sentences name moments in UTC.
  for (const e of document.querySelectorAll("#why, #next, #do, #band-text, .said, .runbook")) {
    const text = e.textContent.replace(/(\d\d:\d\d:\d\d UTC) on (\d+ \w+ \d{4})/g, (_, time, day) => local(Date.parse(day + " " + time), now));
    if (text !== e.textContent) e.textContent = text;
  }
  const named = document.getElementById("zone");
  if (named && zone) named.textContent = "Times are in " + zone + ".";
}

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
function local(at, now) {
  const d = new Date(at);
  return d.toDateString() === new Date(now).toDateString() ? d.toLocaleTimeString() : d.toLocaleString();
}

// Whoever types, or has ticked a box, must not lose it.
const busy = part => [...part.querySelectorAll("input:not([type=hidden])")].some(i =>
  i === document.activeElement || (i.type === "checkbox" ? i.checked : i.value !== i.defaultValue));

function take(next) {
  for (const part of document.querySelectorAll("[data-part]")) {
    const fresh = next.getElementById(part.id);
    // What is the same is left alone: a screen reader would read it again.
    if (!fresh || busy(part) || fresh.isEqualNode(part)) continue;
    const open = [...part.querySelectorAll("details[open]")].map(d => d.id);
    const had = part.contains(document.activeElement) ? document.activeElement : null;
    const focus = had?.id || (had?.tagName === "SUMMARY" ? had.parentElement.id : "");
    const scrolled = part.querySelector(".scroll")?.scrollTop;
    for (const a of ["class", "data-state", "data-tone", "hidden"]) fresh.hasAttribute(a) ? part.setAttribute(a, fresh.getAttribute(a)) : part.removeAttribute(a);
    part.replaceChildren(...fresh.childNodes);
    for (const id of open) if (id && document.getElementById(id)) document.getElementById(id).open = true;
    const now = focus && document.getElementById(focus);
    (now?.tagName === "DETAILS" ? now.querySelector("summary") : now)?.focus?.();
    if (scrolled) part.querySelector(".scroll").scrollTop = scrolled;
  }
  document.title = next.title;
  html.dataset.at = next.documentElement.dataset.at;
  html.dataset.read = Date.now();
  tick();
}

let reading = false, again = false, over = false;
function lost(text) { stale.textContent = text; stale.hidden = !text; }
async function refresh() {
  if (over) return;
  if (reading) { again = true; return; }
  reading = true;
  try {
    const url = new URL(location.pathname.endsWith("/do") ? "./" : location.href, location.href);
    url.searchParams.delete("done");
    const r = await fetch(url, { cache: "no-store", redirect: "error", headers: { Accept: "text/html" } });
    const next = new DOMParser().parseFromString(await r.text(), "text/html");
    if (!r.ok || !next.getElementById("state")) {
      over = r.status < 500;
      lost(over ? "You are not signed in any more. Load this page anew." : "The program does not answer. What is shown is old.");
    } else {
      lost("");
      take(next);
    }
  } catch { lost("The program does not answer. What is shown is old."); }
  reading = false;
  if (again) { again = false; refresh(); }
}

html.dataset.read = Date.now();
tick();
if (document.getElementById("state")) {
  setInterval(tick, 1000);
  setInterval(() => { if (!document.hidden) refresh(); }, 15000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  const stream = new EventSource("events");
  stream.addEventListener("hello", refresh); // what has changed while there was no stream
  stream.addEventListener("changed", refresh);
  stream.addEventListener("error", refresh);
  stream.addEventListener("over", () => { stream.close(); refresh(); });
  stream.addEventListener("signed-out", () => { stream.close(); refresh(); });
  addEventListener("pagehide", () => stream.close());
  addEventListener("pageshow", e => { if (e.persisted) location.reload(); });
}
document.addEventListener("submit", e => {
  const b = e.target.querySelector("button");
  if (!b || b.dataset.sent) return e.preventDefault();
  b.dataset.sent = "yes";
  b.setAttribute("aria-disabled", "true");
});
