// Looks for what keeps people from using the page. The value is a list of
// complaints; an empty list is good. It changes nothing that stays.
(() => {
  const bad = [];
  const all = (q, root = document) => [...root.querySelectorAll(q)];
  const name = e => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") + (e.className && e.className.baseVal === undefined ? "." + e.className : "") +
    " " + JSON.stringify((e.innerText || e.value || "").trim().slice(0, 40));
  const shown = e => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.getClientRects().length > 0;

  // Structure.
  if (!/^[a-z]{2}/.test(document.documentElement.lang)) bad.push("the document names no language");
  if (!document.title.trim()) bad.push("the document has no title");
  if (!document.querySelector("meta[name=viewport]")) bad.push("no viewport for phones");
  if (/user-scalable\s*=\s*(no|0)|maximum-scale\s*=\s*1(\D|$)/.test(document.querySelector("meta[name=viewport]")?.content)) bad.push("the page cannot be magnified");
  const heads = all("h1, h2, h3, h4, h5, h6").filter(shown);
  if (heads.filter(h => h.tagName === "H1").length !== 1) bad.push("not exactly one h1");
  heads.forEach((h, i) => {
    if (!h.textContent.trim()) bad.push("an empty heading: " + name(h));
    if (i && h.tagName[1] - heads[i - 1].tagName[1] > 1) bad.push("a heading skips a level: " + name(h));
  });
  if (all("main, [role=main]").filter(shown).length !== 1) bad.push("not exactly one main landmark");
  const ids = all("[id]").map(e => e.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) bad.push("an id is used twice: " + id);
  for (const e of all("[tabindex]")) if (e.tabIndex > 0) bad.push("a positive tabindex: " + name(e));
  for (const e of all("[aria-labelledby], [aria-describedby], [aria-controls], label[for]"))
    for (const a of ["aria-labelledby", "aria-describedby", "aria-controls", "for"])
      for (const id of (e.getAttribute(a) || "").split(/\s+/)) if (id && !document.getElementById(id)) bad.push(a + " names what is not there: " + id);
  for (const e of all("[aria-hidden=true]")) if (e.matches("a, button, input, select, textarea, summary") || e.querySelector("a[href], button, input, select, textarea, summary")) bad.push("hidden from screen readers, but it takes the focus: " + name(e));

  // Names.
  const labelled = e => (e.getAttribute("aria-label") || "").trim() ||
    (e.getAttribute("aria-labelledby") || "").split(/\s+/).map(id => document.getElementById(id)?.textContent.trim() || "").join(" ").trim();
  for (const e of all("button, a[href], summary, [role=button], [role=link]").filter(shown))
    if (!labelled(e) && !e.textContent.trim() && !e.querySelector("img[alt]:not([alt=''])")) bad.push("a control without a name: " + name(e));
  for (const e of all("input:not([type=hidden]), select, textarea").filter(shown))
    if (!labelled(e) && ![...(e.labels || [])].some(l => shown(l) && l.textContent.trim()) && !(e.type === "submit" && e.value)) bad.push("a field without a label: " + name(e));
  for (const e of all("img").filter(shown)) if (!labelled(e) && !e.hasAttribute("alt")) bad.push("an image without text: " + name(e));
  for (const e of all("svg").filter(shown))
    if (!e.closest("[aria-hidden=true]") && !(e.getAttribute("role") === "img" && (labelled(e) || e.querySelector(":scope > title")?.textContent.trim()))) bad.push("a drawing without text: " + name(e));
  for (const e of all("table").filter(shown)) if (!e.querySelector("th")) bad.push("a table without headings: " + name(e));
  for (const e of all("ul, ol")) for (const c of e.children) if (!c.matches("li, script, template")) bad.push("not an item of its list: " + name(c));
  for (const e of all("dl")) for (const c of e.children) if (!c.matches("dt, dd, div, script, template")) bad.push("not a part of its list: " + name(c));

  // Large enough for a finger, where it is not part of a sentence.
  if (innerWidth < 600) for (const e of all("button, input:not([type=hidden]):not([type=checkbox]):not([type=radio]), select").filter(shown)) {
    const r = e.getBoundingClientRect();
    if (r.height < 24 || r.width < 24) bad.push("too small for a finger (" + Math.round(r.width) + "x" + Math.round(r.height) + "): " + name(e));
  }

  // Nothing scrolls sideways, nothing is cut off.
  const root = document.scrollingElement;
  if (root.scrollWidth > innerWidth) {
    bad.push("the page scrolls sideways: " + root.scrollWidth + " > " + innerWidth);
    for (const e of all("body *").filter(shown)) if (e.getBoundingClientRect().right > innerWidth + 1) bad.push("too wide: " + name(e));
  }
  for (const e of all("body *").filter(shown)) {
    const s = getComputedStyle(e);
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth && /auto|scroll|hidden|clip/.test(s.overflowX) && !/^(INPUT|TEXTAREA)$/.test(e.tagName) && e.clientWidth > 2) bad.push("cut off, or scrolls sideways: " + name(e));
  }

  // Nothing moves for those who cannot bear it.
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    if (document.getAnimations().length) bad.push("something moves");
    for (const e of all("*")) {
      const s = getComputedStyle(e);
      if (s.animationName !== "none" || s.scrollBehavior === "smooth" || s.transitionDuration.split(",").some(d => parseFloat(d) > 0)) bad.push("it may move: " + name(e));
    }
  }

  // Contrast, as WCAG 2 reckons it.
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = color => {
    if (!known.has(color)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = color;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      known.set(color, [r, g, b, a / 255]);
    }
    return known.get(color);
  };
  const over = (top, alpha, under) => [0, 1, 2].map(i => top[i] * alpha + under[i] * (1 - alpha));
  const canvasColor = (() => { // what lies under everything
    const probe = document.createElement("div");
    probe.style.cssText = "background: Canvas; display: none";
    document.body.append(probe);
    const c = rgba(getComputedStyle(probe).backgroundColor);
    probe.remove();
    return c.slice(0, 3);
  })();
  const chain = e => { const list = []; for (; e; e = e.parentElement) list.unshift(e); return list; };
  const ground = e => {
    let c = canvasColor;
    for (const p of chain(e)) {
      const s = getComputedStyle(p), [r, g, b, a] = rgba(s.backgroundColor);
      c = over([r, g, b], a * s.opacity, c);
    }
    return c;
  };
  const light = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  let looked = 0;
  for (let n; (n = texts.nextNode());) {
    const e = n.parentElement;
    if (!n.data.trim() || seen.has(e) || !shown(e) || e.matches("script, style, title, option, noscript")) continue;
    seen.add(e);
    const s = getComputedStyle(e), under = ground(e);
    const svg = e.closest("svg") && s.fill !== "none";
    const [r, g, b, a] = rgba(svg ? s.fill : s.color);
    const fade = chain(e).reduce((o, p) => o * getComputedStyle(p).opacity, 1);
    if (e.closest(":disabled")) continue; // nothing can be done with it
    const got = ratio(over([r, g, b], a * fade, under), under);
    looked++;
    if (got < 4.5) bad.push("too little contrast (" + got.toFixed(2) + "): " + name(e));
  }
  if (!looked) bad.push("no text to read");

  // So must what a drawing says, where it says anything.
  for (const e of all("svg .connected, svg .standby, svg .off, svg.key:not(.unknown) path").filter(e => e.getClientRects().length)) {
    const got = ratio(rgba(getComputedStyle(e).fill).slice(0, 3), ground(e.closest("svg")));
    if (got < 3) bad.push("hard to see (" + got.toFixed(2) + "): " + e.outerHTML.slice(0, 60));
  }
  if (matchMedia("(forced-colors: active)").matches && document.querySelector("#state") && parseFloat(getComputedStyle(document.querySelector("#state")).borderLeftWidth) < 1) bad.push("the state has no edge");

  // The edges of what one can type into or press must be seen as well: 3:1.
  for (const e of all("input:not([type=hidden]), button, select, textarea").filter(shown)) {
    if (e.disabled) continue;
    const s = getComputedStyle(e), around = ground(e.parentElement), [r, g, b, a] = rgba(s.backgroundColor), [br, bg, bb, ba] = rgba(s.borderTopColor);
    const fill = ratio(over([r, g, b], a, around), around), edge = s.borderTopStyle === "none" || s.borderTopWidth === "0px" ? 1 : ratio(over([br, bg, bb], ba, around), around);
    if (Math.max(fill, edge) < 3) bad.push("its edges are hard to see (" + Math.max(fill, edge).toFixed(2) + "): " + name(e));
  }
  return bad;
})()
